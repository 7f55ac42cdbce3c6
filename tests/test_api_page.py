"""The examples of the API give what its pages say, no public name of the library is without one, or without a page."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import api
import pytest
import yaml
from project import ROOT

import lth_core
import lth_study

FIRST, EXAMPLES = api.examples()


@pytest.mark.parametrize("module", EXAMPLES)
def test_every_example_gives_what_its_page_says(module: str) -> None:
    example = doctest.DocTestParser().get_doctest(FIRST + EXAMPLES[module], {}, module, None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(example)
    assert runner.tries > FIRST.count(">>>")
    assert not runner.failures


def test_every_public_name_of_the_library_has_an_example() -> None:
    text = FIRST + "".join(EXAMPLES.values())
    assert [name for name in lth_core.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_every_module_with_a_public_name_has_a_page() -> None:
    public = [getattr(package, name) for package in (lth_core, lth_study) for name in package.__all__]
    modules = {each.__module__ for each in public if hasattr(each, "__module__")}
    assert modules - set(api.CORE + api.STUDY) == set()
    assert EXAMPLES.keys() == set(api.CORE)


def test_a_module_has_a_page_out_of_the_search_and_a_row_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "EXAMPLES", ROOT / api.EXAMPLES)
    api.write()
    pages = {file.stem: file.read_text() for file in api.FOLDER.glob("*.md")}
    assert pages.keys() == set(api.CORE + api.STUDY)
    assert all(text.startswith("---\nnosearch: true\n---\n") for text in pages.values())
    assert ".. automodule:: lth_core.summary\n   :members: Summary, Part\n" in pages["lth_core.summary"]
    assert "summary.model.parameters" in pages["lth_core.summary"]
    assert (
        "| [lth_core.masks](pages/api/lth_core.masks.md) | Pruning masks: which weights of a network are still there. |"
        in api.TABLE.read_text()
    )


def test_the_book_has_these_pages() -> None:
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    (chapter,) = [c for part in parts for c in part["chapters"] if c.get("file") == "book/api"]
    assert chapter["sections"] == [{"glob": f"{api.FOLDER}/*"}]
