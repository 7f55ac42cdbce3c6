"""The last step of the build: mend what the theme's pages lack, for screen readers and browsers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path

GLOSSARY = Path("book/method.html")

ROW = re.compile(r"<tr\b.*?</tr>", re.DOTALL)
CELL = re.compile(r"(<t[hd]\b)([^>]*)>(.*?)</t[hd]>", re.DOTALL)
NUMBER = re.compile(
    r"([-+−]|&lt;\s)?[\d.,]*\d%?( \([^()]+ to [^()]+\))?(, n = \d+)?( (points|points a level|times|[mb]illion))?"
)
"""What counts as a number in a cell of a table: one with its interval and unit, too."""


def definitions(page: str) -> dict[str, str]:
    """The text of every definition of the glossary, by the anchor of its term."""
    glossary = page.partition('<dl class="simple glossary">')[2].partition("</dl>")[0]
    found = re.findall(r'<dt id="([^"]+)">.*?</dt>\s*<dd>(.*?)</dd>', glossary, flags=re.DOTALL)
    return {anchor: words(definition) for anchor, definition in found}


def words(markup: str) -> str:
    """What a reader sees of an element without pictures."""
    return " ".join(re.sub(r"<[^>]*>", "", markup).split())


def define_terms(page: str, glossary: dict[str, str]) -> str:
    """Put the definition beside every link to a term of the glossary; `book.css` shows it on hover and focus."""
    number = count()

    def define(link: re.Match[str]) -> str:
        name = f"definition-{next(number)}"
        return (
            f'<span class="term">{link[1]} aria-describedby="{name}"{link[3]}'
            f'<span class="definition" role="tooltip" id="{name}">{glossary[link[2]]}</span></span>'
        )

    return re.sub(
        r'(<a class="reference internal" href="[^"]*#(term-[^"]+)")(><span class="xref[^>]*>.*?</a>)', define, page
    )


def mark_numbers(table: str) -> str:
    """Mark the cells of a table that hold a number, and the heads of columns where most cells do.

    Columns are counted from the right, since a name of rows may stand on the left once for several of them.
    """
    numbers = Counter[int]()  # column -> its numbers, less its cells that are none

    def mark(row: str, heads: bool) -> str:
        column = 0
        for cell in reversed(list(CELL.finditer(row))):
            shown, spans = words(cell[3]), re.search(r'colspan="(\d+)"', cell[2])
            is_number = NUMBER.fullmatch(shown) is not None
            if shown and not heads:
                numbers[column] += 1 if is_number else -1
            if is_number or (shown and heads and not spans and numbers[column] > 0):
                row = f"{row[: cell.end(1)]} data-number{row[cell.end(1) :]}"
            column += int(spans[1]) if spans else 1
        return row

    head, start, body = table.partition("<tbody")
    body = ROW.sub(lambda row: mark(row[0], heads=False), body)
    return ROW.sub(lambda row: mark(row[0], heads=True), head) + start + body


def finish_pages(html: Path, notebooks: Mapping[str, str], figures: Mapping[tuple[str, str], str]) -> None:
    """Mend every page below a folder. `notebooks` gives the notebook of a page that has another name.

    `figures` are what pages of notebooks show in place of the pictures in the notebooks, by page and checksum: pictures
    for both themes and two widths.

    Every head of a table says whether it heads a column or a row, and an empty one is no head. Terms show what the
    glossary says of them, and numbers in tables stand on the right (`book.css`). Lists that fold in the sidebar have a
    name. Displayed formulas can be scrolled with the keyboard. The scripts of thebe, which nothing here uses and which
    the theme loads twice, go. The search finds no names of functions before what pages say. Buttons open the notebook
    that the repository has, not the executed copy, which is in no repository.
    """

    def in_repository(found: re.Match[str]) -> str:
        before, name = found.groups()
        return f"{before}notebooks/{notebooks.get(name, name)}"

    index = html / "searchindex.js"
    found = json.loads(index.read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    index.write_text(f"Search.setIndex({json.dumps(found | {'objects': {}}, separators=(',', ':'))})")
    glossary = definitions((html / GLOSSARY).read_text())
    for file in html.rglob("*.html"):
        text = define_terms(file.read_text(), glossary)
        text = re.sub(r"<table\b.*?</table>", lambda table: mark_numbers(table[0]), text, flags=re.DOTALL)
        for part, scope in (("thead", "col"), ("tbody", "row")):
            text = re.sub(
                rf"<{part}\b.*?</{part}>",
                lambda found, scope=scope: re.sub(r"<th\b(?![^>]*\bscope=)", f'<th scope="{scope}"', found[0]),
                text,
                flags=re.DOTALL,
            )
        text = re.sub(r"<th\b([^>]*)>((?:\s|<p></p>)*)</th>", r"<td\1>\2</td>", text)
        text = re.sub(r"<script\b[^>]*>[^<]*THEBE_JS_URL[^<]*</script>|<script\b[^>]*thebe[^>]*></script>", "", text)
        text = re.sub(r"(/HEAD(?:\?urlpath=lab/tree)?/)book/executed/(\w+)", in_repository, text)
        text = re.sub(
            r'<img\b[^>]*_images/(\w+)\.png"[^>]*>',
            lambda found, page=file.stem: figures.get((page, found[1]), found[0]),
            text,
        )
        text = text.replace('<div class="math ', '<div tabindex="0" class="math ')
        file.write_text(text.replace("<summary><span", '<summary aria-label="Pages of this chapter"><span'))
