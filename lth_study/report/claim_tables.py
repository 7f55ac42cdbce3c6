"""Judged claims (`claims.judged`) as tables for notebooks: verdicts with signs, their counts, the power of tests."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from lth_study.data import title
from lth_study.report import NETWORK_NAMES
from lth_study.report.effects import SIGNIFICANCE, smallest_effect

SIGNS = {"supported": "✓", "contradicted": "✗", "undecided": "?", "cannot fail here": "∅", "not run": "–"}
"""Verdict -> the sign before it on a page."""

ABOUT = {"paper": "the paper's claims", "later": "later papers' claims", "study": "the study's own questions"}
"""Who made a claim -> what tables call that."""


def readable(table: pd.DataFrame) -> Marked:
    """Judged claims as a table for a page. Network, scale and recipe are in the index if there are several."""
    scale = table["profile"] + ", " + table["recorded_on"].map(title)
    q = table["q"].map(lambda value: "" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "<\u00a00.001")
    shown = table.assign(network=table["network"].map(NETWORK_NAMES), scale=scale, claim=table["text"], q=q)
    index = [name for name in ("network", "scale", "recipe") if shown[name].nunique() > 1]
    return Marked(shown.set_index([*index, "claim"])[["paper", "here", "n", "verdict", "q", "note"]], table["claim"])


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """How many claims have each verdict: by who made them. Exploratory and unfinished ones stand apart."""
    about = table["about"].map(ABOUT)
    kind = table["note"].map(
        lambda note: "exploratory" if "exploratory" in note else "unfinished" if " replicates" in note else "as fixed"
    )
    found = pd.crosstab([about.rename("about"), kind.rename("judged")], table["verdict"])
    return found.reindex(columns=list(SIGNS), fill_value=0)


def power_table(replicates: Sequence[int] = (3, 5, 8)) -> pd.DataFrame:
    """The smallest effect that a test finds four times in five, in standard deviations, by number of replicates."""
    found = {n: round(smallest_effect(n), 1) for n in replicates}
    signs = {n: "yes" if stats.binomtest(n, n).pvalue < SIGNIFICANCE else "no" for n in replicates}
    table = pd.DataFrame({"smallest effect (standard deviations)": found, "a test by signs can decide": signs})
    return table.rename_axis("replicates")


class Marked:
    """A table for a page. Each verdict has its sign, and a CSS class that gives it a colour in the book.

    `names` are those of the claims: links lead to them.
    """

    def __init__(self, table: pd.DataFrame, names: pd.Series) -> None:
        self.table, self.names = table, names

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        cells = self.table.reset_index().map(lambda cell: html.escape(str(cell)))
        cells["verdict"] = [
            f'<span class="verdict {verdict.replace(" ", "-")}">{SIGNS[verdict]} {verdict}</span>'
            for verdict in self.table["verdict"]
        ]
        cells["claim"] = [
            f'<span id="{name}">{text}</span>' for name, text in zip(self.names, cells["claim"], strict=True)
        ]
        text: str = cells.set_index(self.table.index.names).to_html(escape=False)
        return text
