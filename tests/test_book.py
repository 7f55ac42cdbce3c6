"""The book: builds without a warning, loads nothing from elsewhere, and describes every picture."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

import lth_core
import lth_study
from lth_study import preset
from lth_study.costs.trainings import costs
from lth_study.report import NETWORK_NAMES
from lth_study.settings import IMAGENET_NETWORKS

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = re.compile(r"(https?:)?//", re.IGNORECASE)
LOADED = ("src", "srcset", "data-src", "poster", "data", "xlink:href")
STYLE = re.compile(r"""(?:@import\s*|url\()\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)
SCRIPT = re.compile(r"""(?:fetch|import|importScripts|open)\s*\([^)]{0,20}["'](?:https?:)?//""", re.IGNORECASE)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupyter_book") is None, reason="needs the extra 'book'")


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts and styles."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {"script": "", "style": ""}
        self.inside = ""
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside in self.text:
            self.text[self.inside] += data


def copy_of_book(folder: Path) -> Path:
    """What the book is built from, in a folder of its own."""
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(ROOT / name, folder / name)
    built = shutil.ignore_patterns("executed", "executed.part", "mathjax", "__pycache__")
    shutil.copytree(ROOT / "book", folder / "book", ignore=built)
    for package in ("lth_core", "lth_study"):
        shutil.copytree(ROOT / package, folder / package, ignore=built)  # chapters quote it, and the README
    shutil.copytree(ROOT / "results", folder / "results")
    shutil.copyfile(ROOT / "README.md", folder / "README.md")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return folder


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "book/build.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built from the outputs that are stored in the notebooks."""
    folder = copy_of_book(tmp_path_factory.mktemp("book"))
    built = build(folder, "--stored")
    assert built.returncode == 0, built.stdout[-6000:] + built.stderr[-6000:]
    assert "WARNING:" not in built.stdout + built.stderr
    assert built.stdout.strip().endswith(str(folder / "_build" / "html" / "index.html"))
    return folder / "_build" / "html"


@pytest.fixture(scope="module")
def pages(html: Path) -> dict[str, Page]:
    return {
        str(file.relative_to(html)): Page(file) for file in sorted(html.rglob("*.html")) if "_static" not in str(file)
    }


def test_every_chapter_is_a_page(pages: dict[str, Page]) -> None:
    chapters = re.findall(r"(?:root|file): *(\S+)", (ROOT / "_toc.yml").read_text())
    assert [chapter for chapter in chapters if f"{chapter}.html" not in pages] == []


def test_pages_load_nothing_from_elsewhere(pages: dict[str, Page]) -> None:
    found = []
    for name, page in pages.items():
        for tag, attributes in page.elements:
            loaded = [attributes.get(attribute, "") for attribute in LOADED]
            loaded += [attributes.get("href", "")] if tag in ("link", "image", "use") else []
            found += [f"{name}: <{tag}> {value}" for value in loaded if ELSEWHERE.match(value.strip())]
            found += [f"{name}: <{tag}> style" for _ in STYLE.findall(attributes.get("style", ""))]
        found += [f"{name}: {text}" for text in STYLE.findall(page.text["style"])]
        found += [f"{name}: {text}" for text in SCRIPT.findall(page.text["script"])]
    assert found == []


def test_style_sheets_and_scripts_load_nothing_from_elsewhere(html: Path) -> None:
    found = [f"{file}: {text}" for file in html.rglob("*.css") for text in STYLE.findall(file.read_text())]
    found += [f"{file}: {text}" for file in html.rglob("*.js") for text in SCRIPT.findall(file.read_text())]
    assert found == []


def test_formulas_are_set_by_the_copy_in_the_book(html: Path, pages: dict[str, Page]) -> None:
    assert (html / "_static" / "mathjax" / "tex-svg.js").stat().st_size > 1_000_000
    with_formulas = {
        name for name, page in pages.items() if any("math" in a.get("class", "").split() for _, a in page.elements)
    }
    assert "book/method.html" in with_formulas
    for name in with_formulas:
        scripts = [attributes.get("src", "") for tag, attributes in pages[name].elements if tag == "script"]
        assert any("_static/mathjax/tex-svg.js" in script for script in scripts), name


def test_every_image_has_alternative_text(pages: dict[str, Page]) -> None:
    images = [(name, attributes) for name, page in pages.items() for tag, attributes in page.elements if tag == "img"]
    assert images, "a book without a figure"
    for name, attributes in images:
        text = attributes.get("alt", "").strip()
        assert len(text.split()) >= 5, f"{name}: alternative text {text!r}"
        assert not re.search(r"\.(png|svg|jpe?g|gif|webp)$", text), f"{name}: a file name, {text!r}"
        assert not re.search(r"_build|_images|<Figure", text), f"{name}: {text!r}"


def test_pages_fit_a_phone_and_name_their_language(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        if name == "index.html":  # only leads to the first chapter
            continue
        assert any(tag == "meta" and a.get("name") == "viewport" for tag, a in page.elements), name
        assert any(tag == "html" and a.get("lang") for tag, a in page.elements), name


def test_the_api_page_has_every_public_name(pages: dict[str, Page]) -> None:
    described = {attributes["id"] for _, attributes in pages["book/api.html"].elements if "id" in attributes}
    for package in (lth_core, lth_study):
        last_parts = {name.split(".")[-1] for name in described if name.startswith(f"{package.__name__}.")}
        assert [name for name in package.__all__ if name not in last_parts] == []


@pytest.mark.parametrize("network", IMAGENET_NETWORKS)
def test_the_imagenet_chapter_counts_what_its_settings_ask_for(network: str) -> None:
    study = preset(network)
    cost = costs(study).loc["all of it"]
    iterations = round(cost["iterations, here"])
    billions = iterations * study.setting.batch_size / 1e9
    row = f"| {NETWORK_NAMES[network]} | {cost['trainings, here']:.0f} | {iterations:,} | {billions:.2f} billion |"
    assert row in (ROOT / "book" / "imagenet.md").read_text()


def test_a_notebook_that_fails_stops_the_build(tmp_path: Path) -> None:
    folder = copy_of_book(tmp_path)
    for notebook in (folder / "notebooks").glob("*.ipynb"):
        notebook.unlink()
    for name, code in {
        "beside": "import time; time.sleep(10)",
        "failing": "raise RuntimeError('the reason')",
        "next": "",
    }.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    built = build(folder)
    assert built.returncode == 1
    lines = built.stdout.splitlines()
    assert sorted(lines[:2]) == ["executing beside", "executing failing"]
    assert [re.sub(r"\d+", "10", line) for line in lines[2:]] == ["executed beside in 10 s"]
    assert "failing.ipynb" in built.stderr
    assert "the reason" in built.stderr
    assert not (folder / "book" / "executed").exists()
    assert not (folder / "_build").exists()


def test_one_page_is_executed_with_its_parameters_and_its_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, ran = build_script(), []

    def execute(notebook: Path, destination: Path, parameters: dict[str, object]) -> None:
        ran.append((notebook.name, parameters))
        shutil.copyfile(notebook, destination)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(script, "execute", execute)
    for name in ("cifar10_stability_deep", "costs"):
        monkeypatch.setattr(sys, "argv", ["build.py", "--page", name, str(tmp_path / name)])
        script.main()
    assert ran == [("cifar10_stability.ipynb", {"compared_levels": [13, 8]}), ("costs.ipynb", {})]
    titles = [
        nbformat.read(tmp_path / name, 4).cells[0].source.splitlines()[0]
        for name in ("cifar10_stability_deep", "costs")
    ]
    assert titles == ["# ResNet-20: stability at 5.5% of the weights", "# What it costs"]


def test_a_book_of_executed_pages_has_these_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = build_script()
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/new.ipynb").write_text("new")
    (tmp_path / script.EXECUTED).mkdir(parents=True)
    (tmp_path / script.EXECUTED / "old.ipynb").write_text("old")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "place_mathjax", lambda: None)
    monkeypatch.setattr(script, "build_pages", lambda: 7)
    monkeypatch.setattr(sys, "argv", ["build.py", "--pages", str(tmp_path / "pages")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="exit status 7"):
        script.main()
    assert [file.name for file in (tmp_path / script.EXECUTED).iterdir()] == ["new.ipynb"]


def test_another_major_version_of_jupyter_book_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    script = build_script()
    monkeypatch.setattr(script, "version", lambda name: "2.0.1")
    with pytest.raises(SystemExit, match=r"needs jupyter-book 1\.x, found 2\.0\.1"):
        script.check_jupyter_book()


def build_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_book", ROOT / "book" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script
