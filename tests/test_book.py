"""Building the book: what stops it, and what its chapters count. `tests/built` looks at the built pages."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build
import finish
import nbformat
import pytest

from lth_study import preset
from lth_study.costs.trainings import costs
from lth_study.report import NETWORK_NAMES
from lth_study.settings import IMAGENET_NETWORKS

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupyter_book") is None, reason="needs the extra 'book'")


def copy_of_book(folder: Path) -> Path:
    """What the book is built from, in a folder of its own."""
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(ROOT / name, folder / name)
    built = shutil.ignore_patterns("executed", "executed.part", "mathjax", "__pycache__")
    shutil.copytree(ROOT / "book", folder / "book", ignore=built)
    for package in ("lth_core", "lth_study"):
        shutil.copytree(ROOT / package, folder / package, ignore=built)  # chapters quote it
    shutil.copytree(ROOT / "results", folder / "results")
    shutil.copyfile(ROOT / "README.md", folder / "README.md")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return folder


def built_in(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "book/build.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


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
    built = built_in(folder)
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
    ran = []

    def execute(notebook: Path, destination: Path, parameters: dict[str, object], figures: Path) -> None:
        ran.append((notebook.name, parameters, figures.name))
        shutil.copyfile(notebook, destination)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(build, "execute", execute)
    for name in ("cifar10_stability_deep", "costs"):
        monkeypatch.setattr(sys, "argv", ["build.py", "--page", name, str(tmp_path / name)])
        build.main()
    assert ran == [
        ("cifar10_stability.ipynb", {"compared_levels": [13, 8]}, "figures"),
        ("costs.ipynb", {}, "figures"),
    ]
    titles = [
        nbformat.read(tmp_path / name, 4).cells[0].source.splitlines()[0]
        for name in ("cifar10_stability_deep", "costs")
    ]
    assert titles == ["# ResNet-20: stability at 5.5% of the weights", "# What it costs"]


def test_a_book_of_executed_pages_has_these_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pages/figures").mkdir(parents=True)
    (tmp_path / "pages/new.ipynb").write_text("new")
    (tmp_path / "pages/figures/new-curves.csv").write_text("new")
    monkeypatch.setattr(build.pages, "write_pages", lambda: None)
    monkeypatch.setattr(build.explorer, "write", lambda: None)
    monkeypatch.setattr(build.api, "write", lambda: None)
    monkeypatch.setattr(build.archive, "write", lambda file: None)
    shutil.copyfile(ROOT / "_config.yml", tmp_path / "_config.yml")
    monkeypatch.setattr(build.diagrams, "write", lambda: None)
    (tmp_path / build.EXECUTED).mkdir(parents=True)
    (tmp_path / build.EXECUTED / "old.ipynb").write_text("old")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "place_mathjax", lambda: None)
    monkeypatch.setattr(build, "build_pages", lambda config: 7)
    monkeypatch.setattr(sys, "argv", ["build.py", "--pages", str(tmp_path / "pages")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="exit status 7"):
        build.main()
    assert [file.name for file in (tmp_path / build.EXECUTED).iterdir()] == ["new.ipynb"]
    assert [file.name for file in (tmp_path / build.FIGURES).iterdir()] == ["new-curves.csv"]


def test_another_major_version_of_jupyter_book_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "version", lambda name: "2.0.1")
    with pytest.raises(SystemExit, match=r"needs jupyter-book 1\.x, found 2\.0\.1"):
        build.check_jupyter_book()


def test_numbers_in_a_table_are_marked_and_the_heads_over_most_of_them() -> None:
    """A name of rows stands once for two of them, so columns do not begin at the same cell."""
    head = "<tr><th></th><th></th><th colspan=2>both</th></tr>"
    head += "<tr><th>name</th><th>level</th><th>mean</th><th>said</th></tr>"
    rows = (
        "<tr><th rowspan=2>12 nets</th><th>0</th><td>1.5 (1 to 2)</td><td>2 of 3</td></tr>",
        "<tr><th>1</th><td class='x'>&lt; 0.05</td><td>7</td></tr>",
        "<tr><th>other</th><th>10</th><td>not run</td><td>no</td></tr>",
    )
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>".replace("=2", '="2"')
    marked = re.findall(r"<t[hd] data-number[^>]*>(.*?)</t[hd]>", finish.mark_numbers(table))
    assert marked == ["level", "mean", "0", "1.5 (1 to 2)", "1", "&lt; 0.05", "7", "10"]
    assert finish.mark_numbers(table).replace(" data-number", "") == table
