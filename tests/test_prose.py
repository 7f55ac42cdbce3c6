"""Prose: sentences of pages, notebooks and docstrings are short, and no result is typed into pages and notebooks."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

import nbformat
import pytest
from notebook_files import NOTEBOOKS
from project import ROOT

LONGEST = 25
"""Words of a sentence."""

UNIT = r"points?|degrees?|hours?|minutes?|seconds?|trainings|claims?|verdicts?|[GM]i?B"
RESULT = re.compile(rf"\d+\.\d+|\d[\d,]*(?:%|°| (?:\w+ )?(?:{UNIT})\b)")
"""What counts as a result: a number with a decimal point, or of what the study measures, takes or judges."""

FACTS = {
    r"Python 3\.\d+(?: to 3\.\d+)?|SqueezeNet 1\.0|CC BY 4\.0": "names",
    r"9[05]% (?:interval|confidence)s?|\*90%\*|confidence of 95%|tests? at 5%|q is below 0\.05": "how to judge",
    r"\b(?:0 points|quotients of 0\.8 and 1\.25|0\.[25] points|below 2 points|2 points apart)": "bounds",
    r"at 90°|0\.5 is a guess": "true of any two networks",
    r"(?:prunes|pruning by|at|all layers together,) 20%|(?:and |\()10% (?:of|in) the output layer": "a level prunes",
    r"(?:with|at) 1[06]\.[78]% of the weights": "sizes that are compared",
    r"far below 10%": "a question",
    r"rates of ResNet-20 are .*|Those of VGG-19 are .*|0 to 1, not standardised|decay 0\.995|is 0\.0 after": "settings",
    r"more than 6% in float32, 15% in TF32 or 30% in bfloat16": "tolerances of a benchmark",
    r"cache of 32 MiB|at most 48 MiB": "sizes of a cache and of pieces",
    r"5% of the training images|between 8% and all|small, 50%\)": "how images are held out and cropped",
}
"""Numbers that stand in prose -> what they are, since they are no results of the study."""

SECTIONS = {
    "The recipes": "the paper's Figure 6",
    "What the paper found": "the paper's Figure 8, also in results/paper_values.csv",
    "What full ImageNet needs": "the size of a data set, and a table that test_book.py computes anew",
}
"""Sections of book/imagenet.md with such numbers -> what they are."""


def texts() -> Iterator[tuple[str, str]]:
    """What somebody wrote, page by page and cell by cell, by its place."""
    for notebook in NOTEBOOKS:
        for number, cell in enumerate(nbformat.read(notebook, as_version=4).cells):
            if cell.cell_type == "markdown":
                yield f"{notebook.name}-{number}", cell.source
    for page in ("README.md", "book/*.md", "book/evidence/*.md"):
        for file in sorted(ROOT.glob(page)):
            yield file.name, file.read_text()


def documents() -> Iterator[tuple[str, str]]:
    """Docstrings of the two packages without their indented lists, and the repository's own pages, by their place."""
    for file in sorted(ROOT.glob("lth_*/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Expr(ast.Constant(str(text)), lineno=line):
                    flush = re.sub(r"^ {4}.*$", "", inspect.cleandoc(text), flags=re.MULTILINE)
                    yield f"{file.relative_to(ROOT)}:{line}", flush
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE-BOOK.md"):
        yield name, (ROOT / name).read_text()


def prose(text: str) -> str:
    """A text without code, formulas, calls of templates, what is generated, tags and the targets of links."""
    text = re.sub(r"```.*?```|<!-- results -->.*?<!-- end of results -->", "", text, flags=re.DOTALL)
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"\{[\w:]+\}`([^`<]*)[^`]*`", r"\1", text)
    return re.sub(r"<[^>]*>|\]\([^)]*\)", "", re.sub(r"`[^`]*`|\$[^$]*\$", "X", text))


def sentences(text: str) -> list[str]:
    """The sentences of paragraphs and of items of lists. A colon ends one too."""
    blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*:|#%]|\d+\.)\s?)", text)]
    paragraphs = [re.sub(r"^(?:[-:*]|\d+\.) ", "", block) for block in blocks if block and block[0] not in "|#%"]
    return [sentence for paragraph in paragraphs for sentence in re.split(r"(?<=[.?!:])[)*_\"]*\s+", paragraph)]


def results(text: str) -> list[str]:
    """Numbers of a text that may be results, with the words before them."""
    for section in SECTIONS:
        text = re.sub(rf"^## {section}\n.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    for fact in FACTS:
        text = re.sub(fact, "", text)
    return [text[max(0, found.start() - 40) : found.end()] for found in RESULT.finditer(text)]


everything = pytest.mark.parametrize("text", [pytest.param(prose(text), id=place) for place, text in texts()])


@everything
def test_no_result_is_typed(text: str) -> None:
    assert results(text) == []


@everything
def test_sentences_are_short(text: str) -> None:
    assert [each for each in sentences(text) if len(each.split()) > LONGEST] == []


def test_sentences_of_docstrings_are_short() -> None:
    found = [(place, each) for place, text in documents() for each in sentences(prose(text))]
    assert len(found) > 1000
    assert [each for each in found if len(each[1].split()) > LONGEST] == []


@pytest.mark.parametrize("kind", [FACTS, SECTIONS])
def test_what_is_allowed_is_there(kind: dict[str, str]) -> None:
    written = "\n".join(prose(text) for _, text in texts())
    assert [fact for fact in kind if not re.search(fact, written)] == []


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("Tickets reach 91.3.", ["Tickets reach 91.3"]),
        (
            "They lose 2 points, in 1,200 more trainings.",
            ["They lose 2 points", "They lose 2 points, in 1,200 more trainings"],
        ),
        ("Of 3,000 iterations, batches of 64; see Figure 5.", []),
        ("A level prunes 20% of the weights.", []),
    ],
)
def test_a_typed_result_is_seen(text: str, typed: list[str]) -> None:
    assert results(prose(text)) == typed


def test_a_long_sentence_is_seen_wherever_it_stands() -> None:
    long = "word " * 26
    text = f"Short one. {long}\n\n- {long}\n- short\n\n| {long} |\n\n: {long}"
    assert [len(each.split()) for each in sentences(prose(text))] == [2, 26, 26, 1, 26]
