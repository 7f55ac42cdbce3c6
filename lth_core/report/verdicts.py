"""Verdicts: does a claim of the paper hold in our records?

A claim is about an effect measured once in every replicate (a seed), such as the difference in accuracy between a
ticket and a random subnetwork of the same replicate. The verdict compares the 95% interval of its mean with the range
that the claim allows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

SIGNS = {"supported": "✓", "not supported": "✗", "undecided": "?", "not yet tested at this scale": "–"}
"""Every verdict, and the sign that stands before it in a page."""
AS_ACCURATE = 0.2
"""Points: the tolerance for "as accurate" that the authors set later (arXiv 1912.05671); the paper sets none."""


@dataclass(frozen=True)
class Verdict:
    """Whether a claim of the paper holds in our records: the effect, its 95% interval over replicates, and a word."""

    claim: str
    paper: str
    ours: str
    interval: str
    replicates: int
    verdict: str


def difference(records: pd.DataFrame, one: dict[str, Any], other: dict[str, Any]) -> pd.Series:
    """The paired difference of accuracies between two selections of records, a value for each replicate."""
    metric = "test_accuracy"
    return (_per_replicate(records, one, metric) - _per_replicate(records, other, metric)).dropna()


def log_ratio(records: pd.DataFrame, one: dict[str, Any], other: dict[str, Any], *, metric: str) -> pd.Series:
    """The paired logarithm of the ratio of a metric between two selections, a value for each replicate."""
    ratio = _per_replicate(records, one, metric) / _per_replicate(records, other, metric)
    return np.log(ratio).dropna()


def per_subnetwork(records: pd.DataFrame, *, level: int, metrics: Sequence[str]) -> pd.DataFrame:
    """A row for each subnetwork (method, rewind, replicate) of a level, its mean of each metric in a column."""
    rows = records[(records["level"] == level) & records["method"].isin(["imp", "random_pruning"])]
    rows = rows[(rows["metric"] != "test_accuracy") | (rows["order"] == "0")]
    keys = ["method", "rewind", "replicate"]
    table = rows.pivot_table(index=keys, columns="metric", values="value").reindex(columns=list(metrics))
    return table.dropna().reset_index()


def rank_correlation(records: pd.DataFrame, *, level: int, metric: str) -> pd.Series:
    """Spearman's correlation of the stability of IMP's subnetworks with their accuracy over the rewinding iterations, a
    value for each replicate."""
    rows = per_subnetwork(records, level=level, metrics=[metric, "test_accuracy"])
    rows = rows[rows["method"] == "imp"]
    values = {
        replicate: float(stats.spearmanr(points[metric], points["test_accuracy"]).statistic)
        for replicate, points in rows.groupby("replicate")
        if len(points) > 2 and points[metric].nunique() > 1 and points["test_accuracy"].nunique() > 1
    }
    return pd.Series(values, dtype=float)


def judge(
    claim: str, sample: pd.Series, *, paper: str, above: float = -math.inf, below: float = math.inf, ratio: bool = False
) -> Verdict:
    """Judge the claim that the expected effect lies between `above` and `below`, and is neither of them.

    The interval is Student's t over replicates at 95%. Supported: the whole interval lies between the bounds. Not
    supported: all of it lies outside. Undecided: neither. With fewer than two replicates nothing is judged. With
    `ratio=True` the sample holds logarithms of ratios, and bounds and interval are ratios.
    """
    if len(sample) < 2:
        return Verdict(claim, paper, "", "", len(sample), "not yet tested at this scale")
    unit = math.exp if ratio else float
    mean, low, high = map(unit, (float(sample.mean()), *interval_of_mean(sample)))
    if above < low and high < below:
        word = "supported"
    elif high <= above or low >= below:
        word = "not supported"
    else:
        word = "undecided"
    style = "{:.2f}x" if ratio else "{:+.2f}"
    interval = f"{style.format(low)} to {style.format(high)}"
    return Verdict(claim, paper, style.format(mean), interval, len(sample), word)


def interval_of_mean(sample: pd.Series) -> tuple[float, float]:
    """The 95% interval of a mean over replicates (Student's t). The sample has two values or more."""
    mean, error = float(sample.mean()), float(stats.sem(sample))
    low, high = stats.t.interval(0.95, len(sample) - 1, mean, error) if error else (mean, mean)
    return float(low), float(high)


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Verdicts as a table."""
    columns = [field.name for field in fields(Verdict)]
    return pd.DataFrame([vars(verdict) for verdict in verdicts], columns=columns).set_index("claim")


class Marked:
    """A table with a column of verdicts, for a page: each with its sign, and a class by which the book colours it."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        cells = self.table.reset_index().map(lambda cell: html.escape(str(cell)))
        cells["verdict"] = [_mark(verdict) for verdict in self.table["verdict"]]
        text: str = cells.set_index(self.table.index.names).to_html(escape=False)
        return text


def _mark(verdict: str) -> str:
    kind = verdict.split(" at ")[0].replace(" ", "-")
    return f'<span class="verdict {kind}">{SIGNS[verdict]} {verdict}</span>'


def _per_replicate(records: pd.DataFrame, where: dict[str, Any], metric: str) -> pd.Series:
    rows = records[records["metric"] == metric]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    if metric == "test_accuracy":
        rows = rows[rows["order"] == "0"]
    return rows.groupby("replicate")["value"].mean()
