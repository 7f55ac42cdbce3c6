"""The built pages: nothing from elsewhere, every picture described, every table readable, every claim linked."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import get_args

import pytest
from bs4 import BeautifulSoup

import lth_core
import lth_study
from lth_study.report.looks import INKS, LOOKS, PAPERS, Theme

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = re.compile(r"(https?:)?//", re.IGNORECASE)
LOADED = ("src", "srcset", "data-src", "poster", "data", "xlink:href")
STYLE = re.compile(r"""(?:@import\s*|url\()\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)
SCRIPT = re.compile(r"""(?:fetch|import|importScripts|open)\s*\([^)]{0,20}["'](?:https?:)?//""", re.IGNORECASE)


@pytest.fixture(scope="module")
def pages(html: Path) -> dict[str, BeautifulSoup]:
    files = [file for file in sorted(html.rglob("*.html")) if "_static" not in str(file)]
    return {str(file.relative_to(html)): BeautifulSoup(file.read_text(), "html.parser") for file in files}


def test_every_chapter_is_a_page(pages: dict[str, BeautifulSoup]) -> None:
    chapters = re.findall(r"(?:root|file): *(\S+)", (ROOT / "_toc.yml").read_text())
    assert [chapter for chapter in chapters if f"{chapter}.html" not in pages] == []


def test_pages_load_nothing_from_elsewhere(pages: dict[str, BeautifulSoup]) -> None:
    found = []
    for name, page in pages.items():
        for element in page.find_all(True):
            loaded = [element.get(attribute, "") for attribute in LOADED]
            if element.name in ("image", "use") or (element.name == "link" and element.get("rel") != ["canonical"]):
                loaded.append(element.get("href", ""))
            found += [f"{name}: <{element.name}> {value}" for value in loaded if ELSEWHERE.match(value.strip())]
            found += [f"{name}: <{element.name}> style" for _ in STYLE.findall(element.get("style", ""))]
        for kind, loads in (("style", STYLE), ("script", SCRIPT)):
            found += [f"{name}: {text}" for each in page(kind) for text in loads.findall(each.string or "")]
    assert found == []


def test_style_sheets_and_scripts_load_nothing_from_elsewhere(html: Path) -> None:
    found = [f"{file}: {text}" for file in html.rglob("*.css") for text in STYLE.findall(file.read_text())]
    found += [f"{file}: {text}" for file in html.rglob("*.js") for text in SCRIPT.findall(file.read_text())]
    assert found == []


def test_formulas_are_set_by_the_copy_in_the_book(html: Path, pages: dict[str, BeautifulSoup]) -> None:
    assert (html / "_static" / "mathjax" / "tex-svg.js").stat().st_size > 1_000_000
    with_formulas = {name: page for name, page in pages.items() if page.select_one(".math")}
    assert "book/method.html" in with_formulas
    for name, page in with_formulas.items():
        assert page.select_one('script[src*="_static/mathjax/tex-svg.js"]'), name


def test_every_image_has_alternative_text(pages: dict[str, BeautifulSoup]) -> None:
    logo = re.compile(r"_static/images/logo_\w+\.\w+$")  # of Binder and Colab, beside their names
    images = [(name, image) for name, page in pages.items() for image in page("img") if not logo.search(image["src"])]
    assert images, "a book without a figure"
    for name, image in images:
        text = image.get("alt", "").strip()
        assert len(text.split()) >= 5, f"{name}: alternative text {text!r}"
        assert not re.search(r"\.(png|svg|jpe?g|gif|webp)$", text), f"{name}: a file name, {text!r}"
        assert not re.search(r"_build|_images|<Figure", text), f"{name}: {text!r}"


def test_every_picture_of_a_notebook_is_a_figure_that_was_kept(html: Path, pages: dict[str, BeautifulSoup]) -> None:
    shown: set[str] = set()
    for name, page in pages.items():
        sources = [image["src"] for image in page("img")]
        assert not [source for source in sources if "_images/" in source and source.endswith(".png")], name
        shown |= {Path(source).name.partition(".")[0] for source in sources if "_static/figures/" in source}
    assert shown == {file.stem for file in (html / "_static" / "figures").glob("*.json")}


def test_pages_fit_a_phone_and_name_their_language(pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        if name == "index.html":  # only leads to the first chapter
            continue
        assert page.find("meta", {"name": "viewport"}), name
        assert page.html.get("lang"), name


def test_the_pages_of_the_api_have_every_public_name(pages: dict[str, BeautifulSoup]) -> None:
    api = [page for name, page in pages.items() if name.startswith("book/pages/api/")]
    described = {each["id"] for page in api for each in page.select("[id]")}
    for package in (lth_core, lth_study):
        last_parts = {name.split(".")[-1] for name in described if name.startswith(f"{package.__name__}.")}
        assert [name for name in package.__all__ if name not in last_parts] == []


def test_the_search_finds_no_page_of_the_api(html: Path) -> None:
    index = json.loads((html / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    api = {number for number, name in enumerate(index["docnames"]) if name.startswith(("book/pages/api/", "book/api"))}
    assert len(api) > 40
    assert not index["objects"]
    terms = [*index["terms"].values(), *index["titleterms"].values()]
    found = [page for pages in terms for page in (pages if isinstance(pages, list) else [pages])]
    found += [entry[0] for part in ("alltitles", "indexentries") for each in index[part].values() for entry in each]
    assert len(found) > 1000
    assert api.isdisjoint(found)


def test_every_link_to_a_term_has_its_definition_beside_it(pages: dict[str, BeautifulSoup]) -> None:
    glossary = pages["book/method.html"]
    terms = [(name, link.parent) for name, page in pages.items() for link in page.select("a:has(> .std-term)")]
    assert len(terms) > 20
    assert {"book/pages/index.html", "book/executed/quickstart.html"} <= {name for name, _ in terms}
    for name, term in terms:
        link, definition = term.find("a"), term.find("span", role="tooltip")
        anchor = link["href"].partition("#")[2]
        assert definition.get_text() == " ".join(glossary.find(id=anchor).find_next("dd").get_text().split()), name
        assert pages[name].find_all(id=link["aria-describedby"]) == [definition]


def test_every_verdict_of_a_page_leads_to_its_row(pages: dict[str, BeautifulSoup]) -> None:
    rows = {each["id"] for each in pages["book/executed/claims.html"].select("[id]")}
    found = [(name, link) for name, page in pages.items() for link in page.select('a.verdict[href*="claims.html#"]')]
    links = [(name, link["href"].partition("#")[2]) for name, link in found]
    assert len(links) > 50
    assert [link for link in links if link[1] not in rows] == []


def test_every_head_of_a_table_says_what_it_heads(pages: dict[str, BeautifulSoup]) -> None:
    heads = [(name, head) for name, page in pages.items() for head in page("th")]
    assert len(heads) > 100
    assert [head for head in heads if head[1].get("scope") not in ("col", "row", "colgroup", "rowgroup")] == []


def test_the_book_carries_its_records_and_the_numbers_of_every_figure(
    html: Path, pages: dict[str, BeautifulSoup]
) -> None:
    for name in ("book/cite.html", "book/pages/index.html"):
        (link,) = {link["href"] for link in pages[name].select('a[href$=".zip"]')}
        held = {file.partition("/")[2] for file in zipfile.ZipFile(html / Path(name).parent / link).namelist()}
        drawn = {f"figures/{file.name}" for file in (html / "_static" / "figures").glob("*.csv")}
        assert len(drawn) > 20
        assert held >= drawn | {"README.md", "results/claims.csv"}
        assert (html / Path(name).parent / link).stat().st_size < 2_000_000


def test_no_head_of_a_table_is_empty(html: Path, pages: dict[str, BeautifulSoup]) -> None:
    empty = {name: re.findall(r"<th\b[^>]*>(?:\s|<p>|</p>)*</th>", (html / name).read_text()) for name in pages}
    assert {name: found for name, found in empty.items() if found} == {}


FIGURE = re.compile(r"<figure\b[^>]*>(?:(?!</figure>).)*class=\"pictures\".*?</figure>", re.DOTALL)
ABOUT = {"SVG": r"\.svg", "CSV": r"\.csv", "notebook": r"executed/\w+\.html"}
"""Link of a figure -> where it leads."""


@pytest.fixture(scope="module")
def evidence(html: Path) -> dict[str, str]:
    """The pages of evidence."""
    return {file.stem: file.read_text() for file in sorted((html / "book" / "pages").glob("*.html"))}


def test_every_figure_has_a_number_a_name_and_its_sources(evidence: dict[str, str]) -> None:
    names = set()
    for page, text in evidence.items():
        found = FIGURE.findall(text)
        assert found or page == "explorer", page
        for figure in found:
            assert re.search(r'<span class="caption-number">Fig\. \d+', figure), page
            names.add(re.search(r'<figure[^>]* id="([\w-]+)"', figure)[1])  # type: ignore[index]
            assert 'class="badge' in figure
            assert re.search(r"\d+ replicates", figure)
            for label, target in ABOUT.items():
                assert re.search(rf'<a href="[^"]*{target}"[^>]*>{label}</a>', figure), (page, label)
    assert len(names) > 15


def test_alternative_texts_of_figures_differ_are_short_and_hold_a_number(evidence: dict[str, str]) -> None:
    texts = {}
    for text in evidence.values():
        for figure in FIGURE.findall(text):
            (alt,) = set(re.findall(r'\balt="([^"]*)"', figure))
            source = re.search(r"figures/([\w-]+)\.", figure)[1]  # type: ignore[index]
            assert len(alt.split()) <= 60
            assert re.search(r"\d\.\d", alt), source
            assert texts.setdefault(alt, source) == source
    assert len(texts) > 10


def test_a_command_stands_under_every_figure_with_its_time_and_cost(evidence: dict[str, str]) -> None:
    for page, text in evidence.items():
        figures = FIGURE.findall(text)
        said = r"(?:To train everything again means|.* it took)"
        notes = re.findall(rf"Reading the records takes seconds\. {said} ([^.]*\d[^<]*)", text)
        assert len(notes) == len(figures) == len(re.findall("papermill", text)), page
        assert all(re.match(r"[\d,]+ trainings", note) for note in notes)


def test_no_code_comes_before_the_first_figure(evidence: dict[str, str]) -> None:
    for page, text in evidence.items():
        before = text.partition('class="pictures"')[0]
        assert page == "explorer" or "<pre" not in before.partition("<article")[2], page


def test_figures_have_the_colours_that_have_a_meaning_and_no_others(html: Path) -> None:
    """Beside them, the ink and the paper of each theme, and white around markers."""
    for theme in get_args(Theme):
        known = {getattr(look, theme) for look in LOOKS.values()} | {PAPERS[theme], INKS[theme], "#ffffff"}
        for file in (html / "_static" / "figures").glob(f"*.{theme}*.svg"):
            assert set(re.findall(r"#[0-9a-f]{6}\b(?=[;\"])", file.read_text())) <= known, file.name
