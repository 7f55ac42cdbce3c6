"""What is published: addresses on pages, the archive of records, how to cite, and the workflows that do it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import zipfile
from pathlib import Path

import archive
import build
import finish
import nbformat
import pytest
import yaml
from project import ROOT

from lth_core import __version__
from lth_study.data import title
from lth_study.tickets import CITATION

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text())
COLAB, BINDER = "https://colab.research.google.com", "https://mybinder.org"


@pytest.mark.parametrize("given", ["owner/name", "https://github.com/owner/name/", "https://github.com/owner/name.git"])
def test_a_repository_on_github_is_its_name_or_its_address(given: str) -> None:
    assert build.repository(given) == "https://github.com/owner/name"


@pytest.mark.parametrize(
    "given", ["name", "owner/name/more", "owner name/x", "github.com/owner/name", "https://example.org/owner/name", ""]
)
def test_what_is_no_repository_is_refused(given: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(f"{given!r} is no repository on GitHub or GitLab")):
        build.repository(given)


@pytest.mark.parametrize("given", ["example.org/book", "/book", "ftp://example.org", "https:///book", ""])
def test_an_address_that_is_not_whole_is_refused(given: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=rf"{re.escape(repr(given))} is no address; write it in full"):
        build.address(given)


def test_bad_addresses_stop_the_build_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["build.py", "--url", "example.org"])
    with pytest.raises(SystemExit):
        build.main()
    said = "'example.org' is no address; write it in full, as in https://example.org/book"
    assert capsys.readouterr().err.endswith(f"error: argument --url: {said}\n")


def small_book(folder: Path) -> None:
    """A chapter, a method without a glossary and two executed notebooks, configured as the whole book."""
    for name in ("_config.yml", "book/references.bib", "book/_static/book.css"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "book/chapter.md").write_text("# A chapter\n")
    (folder / "book/method.md").write_text("# The method\n")
    notebooks = ["book/executed/vgg19_accuracy", "book/executed/claims"]
    for name in notebooks:
        (folder / name).parent.mkdir(exist_ok=True)
        cells = [nbformat.v4.new_markdown_cell("# A notebook")]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")
    chapters = [{"file": name} for name in ("book/method", *notebooks)]
    toc = {"format": "jb-book", "root": "book/chapter", "chapters": chapters}
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc))


def links(file: Path) -> set[str]:
    """Every address on a page that leads elsewhere."""
    return set(re.findall(r'href="(https?://[^"]+)"', file.read_text()))


@pytest.mark.skipif(importlib.util.find_spec("jupyter_book") is None, reason="needs the extra 'book'")
def test_pages_lead_to_where_book_and_source_are_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_book(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    html = tmp_path / "_build/html/book"

    assert build.build_pages(build.configuration(None, None)) == 0
    finish.finish_pages(html.parent, {"vgg19_accuracy": "cifar10_accuracy"}, {})
    elsewhere = {url for file in html.rglob("*.html") for url in links(file)}
    assert {url for url in elsewhere if "creativecommons.org" not in url} == set()
    assert f"Version {__version__}." in (html / "chapter.html").read_text()

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")  # the first second of 2026, in UTC
    url, source = build.address("https://example.org/lth"), build.repository("owner/name")
    assert build.build_pages(build.configuration(url, source)) == 0
    finish.finish_pages(html.parent, {"vgg19_accuracy": "cifar10_accuracy"}, {})
    for name, notebook in {"vgg19_accuracy": "cifar10_accuracy", "claims": "claims"}.items():
        assert (ROOT / "notebooks" / f"{notebook}.ipynb").exists()
        assert links(html / "executed" / f"{name}.html") - elsewhere == {
            f"https://example.org/lth/book/executed/{name}.html",
            "https://github.com/owner/name",
            f"{BINDER}/v2/gh/owner/name/HEAD?urlpath=lab/tree/notebooks/{notebook}.ipynb",
            f"{COLAB}/github/owner/name/blob/HEAD/notebooks/{notebook}.ipynb",
        }
    chapter = html / "chapter.html"
    assert links(chapter) - elsewhere == {"https://example.org/lth/book/chapter.html", "https://github.com/owner/name"}
    assert 'rel="canonical" href="https://example.org/lth/book/chapter.html"' in chapter.read_text()
    assert f"Version {__version__} of 2026-01-01." in chapter.read_text()


def test_colab_is_not_offered_where_it_cannot_open_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    offered = {
        host: build.configuration(None, f"https://{host}/owner/name")["launch_buttons"].keys() & {"colab_url"}
        for host in ("github.com", "gitlab.com")
    }
    assert offered == {"github.com": {"colab_url"}, "gitlab.com": set()}


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of one figure, in place of the book's; and the committed records."""
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("page-figure.csv", "page-figure.json", "page-figure.light.svg"):
        (folder / name).write_text(name)
    monkeypatch.setattr(archive, "FIGURES", folder)
    monkeypatch.setenv("LTH_RESULTS", str(ROOT / "results"))
    return folder


def test_the_archive_holds_records_figures_licences_and_how_to_cite(figures: Path, tmp_path: Path) -> None:
    archive.write(tmp_path / "data.zip")
    with zipfile.ZipFile(tmp_path / "data.zip") as opened:
        held = {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}
        assert {name.partition("/")[0] for name in opened.namelist()} == {f"lth-core-data-{__version__}"}
    committed = [file for file in (ROOT / "results").rglob("*") if file.is_file() and "tickets" not in file.parts]
    expected = {str(file.relative_to(ROOT)): file.read_bytes() for file in committed if file.name != ".lock"}
    expected |= {name: (ROOT / name).read_bytes() for name in ("LICENSE", "LICENSE-BOOK.md", "CITATION.cff")}
    expected |= {f"figures/page-figure.{end}": f"page-figure.{end}".encode() for end in ("csv", "json")}
    readme = held.pop("README.md").decode()
    assert held == expected
    ends = {Path(name).name for name in held}
    assert ends >= {"claims.csv", "paper_values.csv", "records.csv", "provenance.csv", "config.json", "sums.sha256"}
    for said in ("CC BY 4.0", "MIT licence", f"version {__version__}", "1903.01611", "lth import results"):
        assert said in readme


def test_the_same_records_make_the_same_bytes(figures: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first.zip", tmp_path / "again.zip"
    archive.write(first)
    for file in figures.iterdir():  # written again, in another order and at another time
        file.unlink()
    for name in ("page-figure.light.svg", "page-figure.json", "page-figure.csv"):
        (figures / name).write_text(name)
    archive.write(again)
    assert first.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(first) as opened:
        assert opened.namelist() == sorted(opened.namelist())
        assert {entry.date_time for entry in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_an_archive_without_figures_is_refused(figures: Path, tmp_path: Path) -> None:
    for file in figures.glob("*.[cj]s*"):
        file.unlink()
    with pytest.raises(SystemExit, match=r"no figures in .*figures; make book draws them"):
        archive.write(tmp_path / "data.zip")


def test_the_citation_file_has_what_its_format_requires() -> None:
    """Required keys and values, from the schema of the Citation File Format 1.2.0."""
    assert {"cff-version", "message", "title", "authors"} <= CFF.keys()
    assert CFF["cff-version"] == "1.2.0"
    assert CFF["type"] in ("software", "dataset")
    assert CFF["license"] == "MIT"
    assert all(author.keys() & {"name", "family-names", "alias"} for author in CFF["authors"])
    for reference in CFF["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        for identifier in reference["identifiers"]:
            assert identifier["type"] in ("doi", "url", "swh", "other")
            assert identifier["value"]


def test_bibtex_says_what_the_citation_file_says() -> None:
    """The entry of the study, then that of the paper."""
    (paper,) = CFF["references"]
    study, article = (
        dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.MULTILINE))
        for entry in (CITATION % CFF["version"]).split("\n\n")
    )
    (author,) = CFF["authors"]
    year = re.search(r"Copyright \(c\) (\d+)", (ROOT / "LICENSE").read_text())
    assert year is not None
    assert study == {
        "title": CFF["title"],
        "author": f"{{{author['name']}}}",
        "year": year[1],
        "note": f"Version {CFF['version']}",
    }
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    (identifier,) = paper["identifiers"]
    assert article == {
        "title": paper["title"],
        "author": " and ".join(names),
        "year": str(paper["year"]),
        "eprint": identifier["value"].removeprefix("arXiv:"),
        "archivePrefix": "arXiv",
    }


def test_the_page_on_citing_names_every_data_set_that_was_recorded() -> None:
    page = (ROOT / "book/cite.md").read_text()
    recorded = {json.loads(file.read_text())["dataset"] for file in (ROOT / "results").glob("*/config.json")}
    assert {title(name).split()[0] for name in recorded} == {"MNIST", "CIFAR-10", "Imagenette"}
    assert [name for name in recorded if title(name).split()[0] not in page] == []


def test_the_page_on_citing_and_the_licence_of_the_book_agree() -> None:
    page, licence = (ROOT / "book/cite.md").read_text(), (ROOT / "LICENSE-BOOK.md").read_text()
    for said in ("https://creativecommons.org/licenses/by/4.0/", "`LICENSE`", "`results/paper_values.csv`"):
        assert said in page
        assert said in licence


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_calls_what_exists_and_asks_for_no_more_rights_than_it_needs(workflow: Path) -> None:
    parsed = yaml.safe_load(workflow.read_text())
    assert parsed["permissions"] == {}
    writes = {
        (name, right)
        for name, job in parsed["jobs"].items()
        for right, of in job["permissions"].items()
        if of == "write"
    }
    assert (
        writes
        == {
            "book": {("publish", "pages"), ("publish", "id-token")},
            "release": {("release", "contents")},
        }[workflow.stem]
    )
    steps = [step for job in parsed["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []
    called = [call for step in steps for call in re.findall(r"\bmake (.*)", step.get("run", ""))]
    assert called
    makefile = (ROOT / "Makefile").read_text()
    for target, *variables in (call.split() for call in called):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
        for variable in variables:
            assert f"$({variable.partition('=')[0]})" in makefile, variable


def test_both_workflows_are_there() -> None:
    assert [file.stem for file in WORKFLOWS] == ["book", "release"]
