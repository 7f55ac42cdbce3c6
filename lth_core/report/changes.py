"""What a change of one thing does to tickets, replicate by replicate: of the rewinding iteration, of the precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lth_core.config import Config
from lth_core.report import METHOD_NAMES, METRIC_NAMES, one_dataset
from lth_core.report.verdicts import difference, judge, log_ratio

Where = dict[str, Any]
"""Columns of records and their values: a selection."""


def changes_by_rewinding(configs: Sequence[Config], records: pd.DataFrame) -> pd.DataFrame:
    """What rewinding to each k changes in the tickets of each recipe, compared with k = 0, at the last level.

    Points of accuracy, and quotients of L2 distances: at k, divided by at 0. In brackets: 95% intervals.
    """
    rows = []
    for config in configs:
        own = records[records["recipe"] == config.recipe]
        initial = {"method": "imp", "rewind": 0, "level": config.levels}
        for k in sorted(set(config.rewinds) - {0}):
            changes = _changes(own, initial | {"rewind": k}, initial, ["l2_data_order", "l2_pruning"])
            rows.append({"recipe": config.recipe, "k": k} | changes)
    return pd.DataFrame(rows, columns=None if rows else ["recipe", "k"]).set_index(["recipe", "k"])


def changes_by_precision(records: pd.DataFrame, *, level: int) -> pd.DataFrame:
    """What each precision changes in the subnetworks of a level, compared with the first in the column `precision`.

    A row for each precision, method and rewinding iteration: points of accuracy, and quotients of distances. In
    brackets: 95% intervals. Replicates are paired: the same seed has the same initial weights, order, crops and flips.
    Raises `ValueError` where the records are of several data sets.
    """
    one_dataset(records)
    first, *others = dict.fromkeys(records["precision"])
    subnetworks = records.loc[records["level"] == level, ["method", "rewind"]].drop_duplicates()
    metrics = ["l2_data_order", "l2_pruning", "angle_data_order", "angle_pruning"]
    rows = []
    for precision in others:
        for method, k in subnetworks.itertuples(index=False):
            before = {"method": method, "rewind": k, "level": level, "precision": first}
            changes = _changes(records, before | {"precision": precision}, before, metrics)
            rows.append({"precision": precision, "subnetwork": METHOD_NAMES[method], "k": k} | changes)
    names = ["precision", "subnetwork", "k"]
    return pd.DataFrame(rows, columns=None if rows else names).set_index(names)


def _changes(records: pd.DataFrame, after: Where, before: Where, metrics: Sequence[str]) -> dict[str, object]:
    """The mean change of the accuracy and of the metrics between two selections, each with its interval."""
    found = [judge("accuracy (points)", difference(records, after, before), paper="")]
    for metric in metrics:
        name = f"{METRIC_NAMES[metric].removesuffix(' (°)')} (quotient)"
        found.append(judge(name, log_ratio(records, after, before, metric=metric), paper="", ratio=True))
    shown = {each.claim: f"{each.ours} ({each.interval})" if each.ours else "" for each in found}
    return {**shown, "replicates": found[0].replicates}
