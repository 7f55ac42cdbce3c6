"""The examples on the page of the API give what the page says, and no public name of the library is without one."""

from __future__ import annotations

import doctest
import re

from project import ROOT

import lth_core

EXAMPLES = "\n".join(re.findall(r"```pycon\n(.*?)```", (ROOT / "book" / "api.md").read_text(), flags=re.DOTALL))


def test_every_example_gives_what_the_page_says() -> None:
    examples = doctest.DocTestParser().get_doctest(EXAMPLES, {}, "api.md", None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(examples)
    assert runner.tries > 50
    assert not runner.failures


def test_every_public_name_of_the_library_has_an_example() -> None:
    assert [name for name in lth_core.__all__ if not re.search(rf"\b{name}\b", EXAMPLES)] == []
