"""How a change of k or of precision changes networks, replicate by replicate: tables of the CIFAR-10 notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from lth_study.extents import Study
from lth_study.report import METHOD_NAMES, METRIC_NAMES, one_dataset
from lth_study.report.effects import DISTANCES, Place, Term, estimate, placed, sample

ACCURACY = "test_accuracy"
STABILITIES = ("l2_data_order", "l2_pruning")


def changes_by_rewinding(studies: Sequence[Study], records: pd.DataFrame) -> pd.DataFrame:
    """How rewinding to each k changes the tickets of each recipe, compared with k = 0, at the last level.

    Accuracies are differences in points. L2 distances are quotients: at k divided by at 0. In brackets: 95% intervals.
    """
    rows = []
    for study in studies:
        recipe, extent = study.setting.recipe, study.extent
        own = placed(records[records["recipe"] == recipe])
        for k in sorted(set(extent.rewinds) - {0}):
            terms = [Term(1, "imp", k), Term(-1, "imp", 0)]
            effects = dict.fromkeys((ACCURACY, *STABILITIES), terms)
            rows.append({"recipe": recipe, "k": k} | _changes({"": own}, effects, extent.levels))
    return _table(rows, ["recipe", "k"])


def steps_by_rewinding(records: pd.DataFrame, rewinds: Sequence[int], *, level: int) -> pd.DataFrame:
    """Which steps of the grid of k improve accuracy and stability: two rows for each step from one k to the next.

    The first row is the change in tickets. The second is that change beyond the change in random subnetworks.
    Accuracies are differences in points. L2 distances are quotients, the earlier k's divided by the later one's: above
    1 the step improves stability. In brackets: 95% intervals.
    """
    study = {"": placed(records)}
    rows = []
    for before, after in pairwise(sorted(rewinds)):
        for beyond in (False, True):
            accuracy = [Term(1, "imp", after), Term(-1, "imp", before)]
            if beyond:
                accuracy += [Term(-1, "random_pruning", after), Term(1, "random_pruning", before)]
            nearer = [Term(-term.sign, term.method, term.rewind) for term in accuracy]
            what = "tickets, beyond random" if beyond else "tickets"
            effects = {ACCURACY: accuracy} | dict.fromkeys(STABILITIES, nearer)
            rows.append({"step": f"{before:,} to {after:,}", "of": what} | _changes(study, effects, level))
    return _table(rows, ["step", "of"])


def slopes_by_rewinding(records: pd.DataFrame, rewinds: Sequence[int], levels: Sequence[int]) -> pd.DataFrame:
    """How accuracy changes with each pruning: least-squares slopes over levels, in points a level.

    A row for the tickets of each k, and a row for the difference of each k from the first. In brackets: 95% intervals.
    """
    own, (first, *others) = placed(records), rewinds
    effects = {f"tickets, k = {k:,}": [Term(1, "imp", k)] for k in rewinds}
    effects |= {f"k = {k:,} less k = {first:,}": [Term(1, "imp", k), Term(-1, "imp", first)] for k in others}
    rows = []
    for what, terms in effects.items():
        values = sample(lambda _: own, terms, ACCURACY, levels).values
        rows.append({"of": what, "slope (points a level)": str(estimate(values) or ""), "replicates": len(values)})
    return _table(rows, ["of"])


def changes_by_precision(records: pd.DataFrame, *, level: int) -> pd.DataFrame:
    """How each precision changes the subnetworks of a level, compared with the first in the column `precision`.

    A row for each precision, method and rewinding iteration. Accuracies are differences in points, distances are
    quotients. In brackets: 95% intervals. Replicates are paired: the same seed has the same initial weights, order,
    crops and flips. Raises `ValueError` if the records are of several data sets.
    """
    one_dataset(records)
    first, *others = dict.fromkeys(records["precision"])
    study = {name: placed(records[records["precision"] == name]) for name in (first, *others)}
    subnetworks = records.loc[records["level"] == level, ["method", "rewind"]].drop_duplicates()
    rows = []
    for precision in others:
        for method, k in subnetworks.itertuples(index=False):
            terms = [Term(1, method, k, (("precision", precision),)), Term(-1, method, k, (("precision", first),))]
            about = {"precision": precision, "subnetwork": METHOD_NAMES[method], "k": k}
            rows.append(about | _changes(study, dict.fromkeys((ACCURACY, *DISTANCES), terms), level))
    return _table(rows, ["precision", "subnetwork", "k"])


def _changes(
    studies: Mapping[str, Mapping[Place, pd.DataFrame]], effects: Mapping[str, Sequence[Term]], level: int
) -> dict[str, object]:
    """The mean and interval of each metric's effect, and the largest number of replicates among them.

    `studies` maps a precision to its records. The key "" stands for records of one precision.
    """
    shown: dict[str, object] = {}
    count = 0
    for metric, terms in effects.items():
        found = sample(lambda changes: studies[changes.get("precision", "")], terms, metric, (level,))
        unit = "quotient" if metric in DISTANCES else "points"
        name = "accuracy" if metric == ACCURACY else METRIC_NAMES[metric].removesuffix(" (°)")
        shown[f"{name} ({unit})"] = str(estimate(found.values, ratio=metric in DISTANCES) or "")
        count = max(count, len(found.values))
    return {**shown, "replicates": count}


def _table(rows: list[dict[str, Any]], index: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=None if rows else index).set_index(index)
