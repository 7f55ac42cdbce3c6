"""What a study asks for: trainings, and distances and error barriers between them; and which of them are missing.

`runner` and `worker` do it, `cli` and `agenda` count it. Nothing here reads or writes a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import combinations

import pandas as pd

from lth_study.extents import Extent, Study
from lth_study.methods import TABLE
from lth_study.settings import Setting
from lth_study.store import ChainId, Training, dense

_METRIC = re.compile(r"(?:l2|angle)_(\w+)|barrier_(\w+?)_(?:train|test)_\w+")
"""Metrics of a comparison: kind of a distance, or kind of a barrier."""


class MissingRecords(LookupError):
    """Trainings that were asked for are not recorded. The message names them and says how to train them."""


@dataclass(frozen=True)
class Comparison:
    """A measurement between the ends of two trainings. Its records belong to the second one, `b`."""

    kind: str
    a: Training
    b: Training

    @property
    def order(self) -> str:
        """The `order` of its rows: two data orders, or the one of `b`. A network and its repetition: "0-0"."""
        paired = self.kind in ("data_order", "noise_floor")
        return f"{self.a.order}-{self.b.order}" if paired else str(self.b.order)

    def __str__(self) -> str:
        b = self.b
        where = f"replicate {b.replicate}, {b.method.replace('_', ' ')}, rewound to {b.rewind}, level {b.level}"
        return f"{where}, {self.kind.replace('_', ' ')} {type(self).__name__.lower()} {self.order}"


class Distance(Comparison):
    """An L2 distance and an angle. `kind` says how the two trainings differ.

    "data_order": in their data order. "pruning": `a` is the dense network. "noise_floor": `b` repeats `a`.
    """


class Barrier(Comparison):
    """An error barrier. `kind` says how the two trainings differ.

    "data_order": in their data order. "pruning": `a` is the dense network. "level": `a` is the ticket of the level
    before. "level_masked": `a` is that ticket under the mask of `b`.
    """


def trainings(study: Study) -> list[Training]:
    """Every training that a study's figures ask for, in the order to do them in.

    First come the dense networks, in every data order. Then for each rewinding iteration: the chains, and at the
    compared levels the controls and further data orders. If orders are compared, a repetition for each replicate comes
    last; it measures the noise floor.

    One-shot masks do not depend on the rewinding iteration. Random reinitialisation under them depends on it only
    through its length. At full length it is therefore trained for the latest rewinding iteration alone. Pruning at
    initialisation is asked for at k = 0 alone.
    """
    return list(dict.fromkeys(t for extent in study.extents.values() for t in _trainings(study.setting, extent)))


def _trainings(setting: Setting, extent: Extent) -> list[Training]:
    once = setting.densities is not None and setting.reinit_length == "full"
    plan = [dense(replicate, order) for order in range(extent.dense_orders) for replicate in extent.replicates]
    for rewind in extent.rewinds:
        for searched in dict.fromkeys(["imp", *(method for method in extent.methods if TABLE[method].retrain)]):
            numbers = range(1, extent.levels + 1)
            plan += [Training(r, searched, rewind, level, 0) for r in extent.replicates for level in numbers]
        for level in extent.compared:
            for replicate in extent.replicates:
                for method in extent.methods:
                    starts, compared = TABLE[method].starts, TABLE[method].compared
                    if starts == "fresh" and once and rewind != max(extent.rewinds):
                        continue
                    if starts == "initial" and rewind:
                        continue
                    orders = extent.orders if compared else 1
                    plan += [Training(replicate, method, rewind, level, order) for order in range(orders)]
    if extent.compared and "imp" in extent.methods and extent.orders > 1:
        deepest = max(extent.compared)
        plan += [Training(r, "imp", extent.rewinds[0], deepest, 0, again=True) for r in extent.replicates]
    return plan


def distances(study: Study) -> list[Distance]:
    """Every distance between the trainings that a study asks for.

    For IMP and random pruning: between every two data orders of a subnetwork, and between a subnetwork and its
    repetition. In data order 0 also between the dense network and the subnetwork.
    """
    levels: dict[tuple[int, str, int, int], list[Training]] = {}
    for t in trainings(study):
        if t.level and TABLE[t.method].compared:
            levels.setdefault((t.replicate, t.method, t.rewind, t.level), []).append(t)
    plan: list[Distance] = []
    for here in levels.values():
        once = [t for t in here if not t.again]
        plan += [Distance("pruning", dense(t.replicate), t) for t in once if t.order == 0]
        plan += [Distance("data_order", a, b) for a, b in combinations(once, 2)]
        plan += [Distance("noise_floor", replace(t, again=False), t) for t in here if t.again]
    return plan


def barriers(study: Study) -> list[Barrier]:
    """Every error barrier that a study's figures ask for, all at their compared levels.

    For IMP and random pruning: between every two data orders of a subnetwork, and between the dense network and the
    subnetwork in data order 0. For iterative IMP also: between the tickets of the level before and of this level, both
    as they are and under this level's mask. At level 1 the dense network is the ticket before, under the mask only.
    """
    asked = (extent for extent in study.extents.values() if extent.barriers)
    return list(dict.fromkeys(b for extent in asked for b in _barriers(study.setting, extent)))


def _barriers(setting: Setting, extent: Extent) -> list[Barrier]:
    plan: list[Barrier] = []
    places = [(k, level, r) for k in extent.rewinds for level in extent.compared for r in extent.replicates]
    for rewind, level, replicate in places:
        for method in extent.methods:
            if not TABLE[method].compared:
                continue
            ends = [Training(replicate, method, rewind, level, order) for order in range(extent.orders)]
            plan += [Barrier("data_order", a, b) for a, b in combinations(ends, 2)]
            plan.append(Barrier("pruning", dense(replicate), ends[0]))
            if method == "imp" and setting.densities is None:
                before = Training(replicate, "imp", rewind, level - 1, 0) if level > 1 else dense(replicate)
                plan += [Barrier("level", before, ends[0])] if level > 1 else []
                plan.append(Barrier("level_masked", before, ends[0]))
    return plan


def unmeasured(records: pd.DataFrame, study: Study) -> list[Comparison]:
    """The distances and barriers that a study asks for and that are neither recorded nor of a `lost` training."""
    recorded, gone = set(_rows(records)), set(lost(records, study))
    comparisons = (*distances(study), *barriers(study))
    return [c for c in comparisons if _row(c) not in recorded and gone.isdisjoint((c.a, c.b))]


def length(training: Training, setting: Setting) -> int:
    """The number of iterations of a training."""
    if training.level and TABLE[training.method].starts == "fresh" and setting.reinit_length == "full":
        return setting.iterations
    return setting.iterations - training.rewind


def select(records: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The rows that a study asks for: of its trainings, and of its distances and barriers."""
    asked = {_row(comparison) for comparison in (*distances(study), *barriers(study))}
    asked |= {_row_of(training) for training in trainings(study)}
    keep = [row in asked for row in _rows(records)]
    return records.loc[pd.array(keep, dtype=bool)].reset_index(drop=True)


def missing(records: pd.DataFrame, study: Study) -> list[Training]:
    """The trainings that a study asks for and that are neither recorded nor `lost`. A repetition has no record of its
    own: it is recorded if its distance is."""
    recorded = set(_rows(records[records["metric"].isin(["test_accuracy", "l2_noise_floor"])]))
    gone = set(lost(records, study))
    proof = {t: _row(Distance("noise_floor", t, t)) if t.again else _row_of(t) for t in trainings(study)}
    return [t for t, row in proof.items() if row not in recorded and t not in gone]


def lost(records: pd.DataFrame, study: Study) -> list[Training]:
    """The trainings that a study asks for and that diverged, or build on a training that did."""
    planned = trainings(study)
    rows = set(_rows(records[records["metric"] == "diverged"]))
    diverged = {t for t in planned if _row_of(t) in rows}
    last: dict[ChainId, int] = {}
    for t in diverged:
        if t.order or (t.level and study.setting.densities is not None):  # one-shot levels do not build on each other
            continue
        if t.method == "dense":
            last |= {other.chain: 0 for other in planned if other.replicate == t.replicate}
        elif t.searched:
            last[t.chain] = min(t.level, last.get(t.chain, t.level))
    return [t for t in planned if t in diverged or t.level > last.get(t.chain, t.level)]


def needed(
    absent: Iterable[Training],
    open_distances: Iterable[Distance],
    study: Study,
    complete: Collection[Training] = frozenset(),
) -> list[Training]:
    """The trainings that one store must have to record the `absent` ones and to measure the distances.

    These are the absent ones, both ends of every distance, their dense runs, and the levels that they build on. They
    are in the order to do them in. A distance needs the weights of both ends in one store; recorded ends may be on
    another machine. A chain continues from its deepest level that is `complete` in the store and needs no level before
    that.
    """
    ends = {*absent, *(end for distance in open_distances for end in (distance.a, distance.b))}
    wanted = [t for t in trainings(study) if t in ends]
    levels: dict[Training, None] = {}
    lowest: dict[ChainId, int] = {}
    for t in wanted:
        if t.level:
            lowest[t.chain] = min(t.level, lowest.get(t.chain, t.level))
    first = {here: _deepest(complete, here, level) or 1 for here, level in lowest.items()}
    for t in wanted:
        if t.level:
            start = first[t.chain] if study.setting.densities is None else t.level
            levels |= dict.fromkeys(Training(*t.chain, n, 0) for n in range(start, t.level + 1))
    runs = dict.fromkeys(dense(t.replicate) for t in wanted)
    return list(runs | levels | dict.fromkeys(wanted))


def _deepest(complete: Collection[Training], here: ChainId, level: int) -> int:
    """The deepest complete level of a chain, not deeper than `level`; 0 if there is none."""
    levels = (Training(*here, n, 0) for n in range(level, 0, -1))
    return next((training.level for training in levels if training in complete), 0)


_Row = tuple[int, str, int, int, str, str | None]
"""Replicate, method, rewinding iteration, level, order, and what a comparison is called (None for a training)."""


def _row_of(training: Training) -> _Row:
    return training.replicate, training.method, training.rewind, training.level, str(training.order), None


def _row(comparison: Comparison) -> _Row:
    b = comparison.b
    name = f"{comparison.kind} {type(comparison).__name__}"
    return b.replicate, b.method, b.rewind, b.level, comparison.order, name


def _rows(records: pd.DataFrame) -> list[_Row]:
    metrics = records["metric"].tolist()
    names = {metric: _comparison_of(metric) for metric in set(metrics)}
    columns = [records[name].tolist() for name in ("replicate", "method", "rewind", "level", "order")]
    return list(zip(*columns, (names[metric] for metric in metrics), strict=True))


def _comparison_of(metric: str) -> str | None:
    match = _METRIC.fullmatch(metric)
    if match is None:
        return None
    return f"{match[1]} {Distance.__name__}" if match[1] else f"{match[2]} {Barrier.__name__}"
