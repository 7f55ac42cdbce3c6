"""Which kind of stability tells matching subnetworks from the others: `notebooks/stability_senses.ipynb`.

A matching subnetwork trains to the accuracy that is to be had at its size (arXiv 1912.05671, section 4).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lth_study.report import METRIC_NAMES, accuracies, not_empty

SENSES = (
    "barrier_data_order_test_mean",
    "angle_data_order",
    "l2_data_order",
    "barrier_pruning_test_mean",
    "angle_pruning",
    "l2_pruning",
)
"""The senses of stability: metrics of subnetworks, the smaller the more stable."""
MARGIN = 0.2
"""Points of accuracy that a matching subnetwork may lack."""
_SAME = ["method", "rewind", "replicate", "level"]


def subnetworks(records: pd.DataFrame) -> pd.DataFrame:
    """A row for each subnetwork that has all senses of stability, with its accuracy, and whether it is matching.

    Accuracies are means over data orders, distances and barriers means over pairs of them. At the paper's scale, a
    matching subnetwork is at most `MARGIN` points less accurate than the dense network of its replicate. At another
    scale, trainings are too short for that: there it is at most as much below the rewinding iteration whose tickets
    are the most accurate at its level, in the mean over replicates.
    """
    accuracy = accuracies(records)
    table = accuracy[accuracy["method"].isin(["imp", "random_pruning"])].set_index(_SAME)["value"].rename("accuracy")
    measured = records[records["metric"].isin(SENSES)].pivot_table("value", _SAME, "metric")
    joined = measured.reindex(columns=list(SENSES)).dropna().join(table, how="inner").reset_index()
    joined = not_empty(joined, records, "of all senses of stability")
    if set(records["profile"]) == {"paper"}:
        reference = joined["replicate"].map(accuracy[accuracy["method"] == "dense"].set_index("replicate")["value"])
    else:
        tickets = joined[joined["method"] == "imp"].groupby(["level", "rewind"])["accuracy"].mean()
        reference = joined["level"].map(tickets.groupby("level").max())
    return joined.assign(matching=joined["accuracy"] >= reference - MARGIN)


def separation(table: pd.DataFrame, draws: int = 500) -> pd.DataFrame:
    """How well each sense tells matching subnetworks from the others: a row for each, the best first.

    The area under the curve is the chance that a matching subnetwork is more stable than another one. 0.5 is a guess,
    1 a perfect separation. Intervals are the middle 95% over replicates drawn anew, with replacement. They are NaN
    where there is one replicate.
    """
    replicates = sorted(table["replicate"].unique())
    chance = np.random.default_rng(1)
    samples = [chance.choice(replicates, len(replicates)) for _ in range(draws if len(replicates) > 1 else 0)]
    groups = dict(list(table.groupby("replicate")))
    areas = [_areas(pd.concat([groups[replicate] for replicate in sample])) for sample in samples]
    spread = pd.DataFrame(areas, columns=list(SENSES)).quantile([0.025, 0.975])
    rows = {
        METRIC_NAMES[sense]: {"area": area, "low": spread[sense].iloc[0], "high": spread[sense].iloc[1]}
        for sense, area in _areas(table).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("area", ascending=False)


def _areas(table: pd.DataFrame) -> dict[str, float]:
    """The area under the curve of each sense, from the ranks; NaN if all or none are matching."""
    matching = table["matching"]
    ours, others = int(matching.sum()), int((~matching).sum())
    if not ours or not others:
        return dict.fromkeys(SENSES, np.nan)
    ranks = table[list(SENSES)].rank(ascending=False)
    return {s: float((ranks.loc[matching, s].sum() - ours * (ours + 1) / 2) / (ours * others)) for s in SENSES}
