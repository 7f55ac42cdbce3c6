"""Every papermill command that the evidence prints: run as printed, on the records alone, it draws the same numbers."""

from __future__ import annotations

import html
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
FIGURES = HTML / "_static" / "figures"


def printed() -> list[str]:
    """The distinct commands of the built pages."""
    blocks = [
        html.unescape(re.sub(r"<[^>]+>", "", block)).strip()
        for page in sorted((HTML / "book" / "pages").glob("*.html"))
        for block in re.findall(r"<pre\b.*?</pre>", page.read_text(), re.DOTALL)
    ]
    return list(dict.fromkeys(block for block in blocks if block.startswith("papermill ")))


def output_of(command: str) -> str:
    return shlex.split(command)[2].removesuffix(".ipynb")


@pytest.mark.skipif(not HTML.exists(), reason="the book is not built; run make book")
def test_every_notebook_with_figures_has_a_command() -> None:
    pages = {file.name.partition("-")[0] for file in FIGURES.glob("*.csv")}
    assert {output_of(command) for command in printed()} <= pages
    assert len(printed()) > 10


@pytest.mark.parametrize("command", printed(), ids=output_of)
def test_a_printed_command_draws_the_figures_of_its_page(command: str, tmp_path: Path) -> None:
    """In a folder of its own, where the notebooks lie as in a checkout: the output stays there."""
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    environment = os.environ | {
        "LTH_FIGURES": str(tmp_path / "figures"),
        "LTH_STORE": str(tmp_path / "no-runs"),
        "LTH_RESULTS": str(ROOT / "results"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "no-runs").exists(), "it trained"
    page = output_of(command)
    shown = {file.name.removeprefix(f"{page}-"): file.read_text() for file in FIGURES.glob(f"{page}-*.csv")}
    assert {file.name: file.read_text() for file in (tmp_path / "figures").glob("*.csv")} == shown
