"""Effects: comparisons of networks within each replicate, with intervals and tests over replicates.

`claims`, `differences`, `dense` and `agenda.table` use them. An effect is written as in `results/claims.csv`:
`imp@25 - imp@0` is the ticket rewound to 25 less the ticket at initialisation. `dense{dataset=cifar10_jpeg}` is the
dense network of the same study with one setting changed. Accuracies and losses are subtracted. Distances and angles are
divided: their effects are computed in logarithms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

from lth_study.commands import value_of
from lth_study.methods import TABLE
from lth_study.records import kinds

DISTANCES = ("l2_data_order", "angle_data_order", "l2_pruning", "angle_pruning")
SIGNIFICANCE = 0.05
_TERM = re.compile(r"([+-]?)\s*(\w+)(?:@(\d+))?(?:\{(\w+)=([\w.]+)\})?\s*")

_NOTHING = pd.DataFrame({"replicate": [], "value": [], "device": [], "finished": []}).astype({"replicate": int})
Place = tuple[str, str, int, int]
"""Metric, method, rewind and level."""
Tables = Callable[[Mapping[str, Any]], Mapping[Place, pd.DataFrame]]
"""Changed settings -> the records of the study with them, by place (`placed`)."""


@dataclass(frozen=True)
class Term:
    """One network of an effect, added (`sign` +1) or subtracted (-1)."""

    sign: int
    method: str
    rewind: int
    changes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Sample:
    """An effect in every replicate.

    `values` and `finished` are indexed by replicate. `finished` is when a replicate's first training was done.
    `dropped` counts the replicates that several kinds of processor trained: these are not compared. `diverged` counts
    those that a diverged training leaves without a value.
    """

    values: pd.Series
    finished: pd.Series
    dropped: int = 0
    diverged: int = 0

    def first(self, count: int) -> Sample:
        """The replicates with the `count` smallest seeds."""
        return replace(self, values=self.values.head(count), finished=self.finished.head(count))


@dataclass(frozen=True)
class Estimate:
    """The mean of a sample and its interval. With `ratio`, the mean is the geometric mean of quotients.

    Its text names the confidence where it is not the usual one.
    """

    mean: float
    low: float
    high: float
    ratio: bool = False
    confidence: float = 1 - SIGNIFICANCE

    def __str__(self) -> str:
        style = "{:.2f}" if self.ratio else "{:+.2f}"
        mean, low, high = (style.format(value) for value in (self.mean, self.low, self.high))
        named = "" if self.confidence == 1 - SIGNIFICANCE else f"{self.confidence:.0%}: "
        return f"{mean} ({named}{low} to {high})"


def parse(effect: str) -> list[Term]:
    """The terms of an effect. Raises `ValueError` for text that is not an effect."""
    terms: list[Term] = []
    position = 0
    while position < len(effect) or not terms:
        found = _TERM.match(effect, position)
        known = found is not None and found[2] in ("dense", *TABLE)
        if found is None or not known or not (found[1] or position == 0):
            raise ValueError(
                f"effect: {effect!r} cannot be read at {effect[position:]!r}; write it like imp@25 - imp@0"
            )
        changes = ((found[4], value_of(found[4], found[5])),) if found[4] else ()
        terms.append(Term(-1 if found[1] == "-" else 1, found[2], int(found[3] or 0), changes))
        position = found.end()
    return terms


def placed(traced: pd.DataFrame) -> dict[Place, pd.DataFrame]:
    """Traced records (`records.traced`) by place. Effects look them up by place."""
    by = traced.groupby(["metric", "method", "rewind", "level"])
    return {place: rows[["replicate", "value", "device", "finished"]] for place, rows in by}


def sample(study: Tables, effect: str | Sequence[Term], measure: str, levels: Sequence[int]) -> Sample:
    """An effect in every replicate that has all of its networks.

    With one level, each network's value is its mean over the recorded data orders. With several levels, the effect is
    the least-squares slope per level. A level is the number of prunings. The dense network is the same at every level.
    """
    terms = parse(effect) if isinstance(effect, str) else list(effect)
    logarithm = measure in DISTANCES
    per_level, made, diverged = [], [], set[int]()
    for level in levels:
        total: pd.Series | float = 0.0
        for term in terms:
            tables, where = study(dict(term.changes)), (0, 0) if term.method == "dense" else (term.rewind, level)
            rows = tables.get((measure, term.method, *where), _NOTHING)
            made.append(rows)
            for above in range(1, where[1] + 1):  # a level builds on those before it
                diverged |= set(tables.get(("diverged", term.method, where[0], above), _NOTHING)["replicate"])
            diverged |= set(tables.get(("diverged", "dense", 0, 0), _NOTHING)["replicate"])
            values = rows.groupby("replicate")["value"].mean()
            total = total + term.sign * (np.log(values) if logarithm else values)
        per_level.append(total)
    table = pd.concat(per_level, axis=1).dropna()
    values = table.iloc[:, 0] if len(levels) == 1 else table.apply(lambda row: _slope(levels, row), axis=1)
    by = pd.concat(made).groupby("replicate")
    alike = by["device"].agg(lambda devices: len(kinds(devices))).reindex(table.index).eq(1)
    finished, lost = by["finished"].min().reindex(table.index[alike]), diverged - set(table.index)
    return Sample(values[alike].astype(float), finished, int((~alike).sum()), len(lost))


def estimate(values: pd.Series, *, ratio: bool = False, confidence: float = 1 - SIGNIFICANCE) -> Estimate | None:
    """The mean and Student's t interval over replicates; None for fewer than two replicates.

    With `ratio`, values are logarithms of quotients, and the estimate holds quotients.
    """
    if len(values) < 2:
        return None
    mean, error = float(values.mean()), float(stats.sem(values))
    low, high = stats.t.interval(confidence, len(values) - 1, mean, error) if error else (mean, mean)
    unit = math.exp if ratio else float
    return Estimate(unit(mean), unit(low), unit(high), ratio, confidence)


def one_sided(values: pd.Series, bound: float) -> float:
    """The p-value of Student's t test against the hypothesis that the expected value is `bound` or less."""
    error = float(stats.sem(values))
    if not error:
        return 0.0 if values.mean() > bound else 1.0
    return float(stats.t.sf((values.mean() - bound) / error, len(values) - 1))


def smallest_effect(replicates: int, power: float = 0.8) -> float:
    """The smallest effect, in standard deviations of replicates, that a two-sided t test at 5% finds this often."""
    freedom = replicates - 1
    critical = stats.t.ppf(1 - SIGNIFICANCE / 2, freedom)

    def short_of_power(effect: float) -> float:
        return float(stats.nct.sf(critical, freedom, effect * math.sqrt(replicates))) - power

    return float(brentq(short_of_power, 0.1, 8))


def _slope(levels: Sequence[int], values: pd.Series) -> float:
    return float(np.polyfit(list(levels), values.to_numpy(), 1)[0])


def judge(
    values: pd.Series, test: str, low: float | None = None, high: float | None = None, *, ratio: bool = False
) -> tuple[str, float, str]:
    """The verdict on a sample of two or more replicates, the p-value of the decision, and the effect as text.

    `low` and `high` are bounds in the unit of the effect. With `ratio`, values are logarithms of quotients, and bounds
    are quotients. Either decision is possible, so the smaller of two one-sided p-values is doubled. Two replicates
    decide nothing: where they happen to agree, there is no spread to judge by.
    """
    unit = math.log if ratio else float
    sides = [(sign * values, sign * unit(bound)) for sign, bound in ((1, low), (-1, high)) if bound is not None]
    if test == "signs":
        (one, bound), *_ = sides
        beyond, untied = int((one > bound).sum()), int((one != bound).sum())
        p = float(stats.binomtest(beyond, untied).pvalue) if untied else 1.0
        inside, outside = (p, 1.0) if 2 * beyond > untied else (1.0, p)
        each = ", ".join(f"{math.exp(value):.2f}" if ratio else f"{value:+.1f}" for value in sorted(values))
        shown = f"{beyond} of {len(values)} ({each})"
    else:
        scale = 2 if test == "superior" else 1
        inside = min(1.0, scale * max(one_sided(one, bound) for one, bound in sides))
        outside = min(1.0, scale * min(one_sided(-one, -bound) for one, bound in sides))
        shown = str(estimate(values, ratio=ratio, confidence=1 - SIGNIFICANCE * 2 / scale))
    if len(values) < 3:
        return "undecided", 1.0, shown
    verdict = "supported" if inside < SIGNIFICANCE else "contradicted" if outside < SIGNIFICANCE else "undecided"
    return verdict, min(1.0, min(inside, outside) * (2 if test in ("not inferior", "equivalent") else 1)), shown
