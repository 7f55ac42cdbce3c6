"""The trainings and barriers that a configuration asks for, and the missing ones, for `runner`, `agenda` and `cli`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import combinations

import pandas as pd

from lth_study.settings import Config
from lth_study.store import Training, dense

NOISE_FLOOR = "l2_noise_floor"
_BARRIER = re.compile(r"barrier_(\w+)_(train|test)_(mean|line)(_recomputed)?")
"""Metrics of a barrier: kind, images, height, and whether batch norm's statistics were recomputed."""


class MissingRecords(LookupError):
    """Trainings that were asked for are not recorded. The message names them and says how to train them."""


@dataclass(frozen=True)
class Barrier:
    """An error barrier between the ends of two trainings. Its records belong to the second one, `b`.

    `kind` says how the two differ. "data_order": in their data order. "pruning": `a` is the dense network. "level": `a`
    is the ticket of the level before. "level_masked": `a` is that ticket under the mask of `b`.
    """

    kind: str
    a: Training
    b: Training

    @property
    def order(self) -> str:
        """The `order` of its rows: two data orders, or the one that both trainings have."""
        return f"{self.a.order}-{self.b.order}" if self.kind == "data_order" else str(self.b.order)

    def __str__(self) -> str:
        b, kind = self.b, self.kind.replace("_", " ")
        where = f"replicate {b.replicate}, {b.method.replace('_', ' ')}, rewound to {b.rewind}, level {b.level}"
        return f"{where}, {kind} barrier {self.order}"


def trainings(config: Config) -> list[Training]:
    """Every training that a configuration asks for, in the order to do them in.

    First come the dense networks, in every data order. Then for each rewinding iteration: the IMP chains, and at the
    compared levels the controls and further data orders. If orders are compared, a repetition for each replicate comes
    last; it measures the noise floor.

    One-shot masks do not depend on the rewinding iteration. Random reinitialisation under them depends on it only
    through its length. At full length it is therefore trained for the latest rewinding iteration alone.
    """
    once = config.densities is not None and config.reinit_length == "full"
    plan = [dense(replicate, order) for order in range(config.dense_orders) for replicate in config.replicates]
    for rewind in config.rewinds:
        chain = range(1, config.levels + 1)
        plan += [Training(r, "imp", rewind, level, 0) for r in config.replicates for level in chain]
        for level in config.compared:
            for replicate in config.replicates:
                for method in config.methods:
                    if method == "random_reinit" and once and rewind != max(config.rewinds):
                        continue
                    orders = 1 if method == "random_reinit" else config.orders
                    plan += [Training(replicate, method, rewind, level, order) for order in range(orders)]
    if config.compared and "imp" in config.methods and config.orders > 1:
        deepest = max(config.compared)
        plan += [Training(r, "imp", config.rewinds[0], deepest, 0, again=True) for r in config.replicates]
    return list(dict.fromkeys(plan))


def barriers(config: Config) -> list[Barrier]:
    """Every error barrier that a configuration asks for, all at its compared levels.

    For IMP and random pruning: between every two data orders of a subnetwork, and between the dense network and the
    subnetwork in data order 0. For iterative IMP also: between the tickets of the level before and of this level, both
    as they are and under this level's mask. At level 1 the dense network is the ticket before, under the mask only.
    """
    plan: list[Barrier] = []
    if not config.barriers:
        return plan
    places = [(k, level, r) for k in config.rewinds for level in config.compared for r in config.replicates]
    for rewind, level, replicate in places:
        for method in config.methods:
            if method == "random_reinit":
                continue
            ends = [Training(replicate, method, rewind, level, order) for order in range(config.orders)]
            plan += [Barrier("data_order", a, b) for a, b in combinations(ends, 2)]
            plan.append(Barrier("pruning", dense(replicate), ends[0]))
            if method == "imp" and config.densities is None:
                before = Training(replicate, "imp", rewind, level - 1, 0) if level > 1 else dense(replicate)
                plan += [Barrier("level", before, ends[0])] if level > 1 else []
                plan.append(Barrier("level_masked", before, ends[0]))
    return plan


def unmeasured(records: pd.DataFrame, config: Config) -> list[Barrier]:
    """The barriers that a configuration asks for and that are not recorded, measurable or not."""
    recorded = set(_rows(records))
    return [barrier for barrier in barriers(config) if _row(barrier) not in recorded]


def length(training: Training, config: Config) -> int:
    """The number of iterations of a training."""
    if training.method == "random_reinit" and config.reinit_length == "full":
        return config.iterations
    return config.iterations - training.rewind


def select(records: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The rows that a configuration asks for.

    A barrier is kept if it is asked for. Any other row is kept if its training is, a distance if both of them are.
    """
    wanted, asked = set(trainings(config)), set(map(_row, barriers(config)))
    keep = [
        row in asked if row[-1] else all(Training(*row[:4], end, again) in wanted for end, again in _ends(row[4]))
        for row in _rows(records)
    ]
    return records.loc[pd.array(keep, dtype=bool)].reset_index(drop=True)


def missing(records: pd.DataFrame, config: Config) -> list[Training]:
    """The trainings that a configuration asks for and that are neither recorded nor `lost`."""
    finished = set(_trainings_of(records[records["metric"] == "test_accuracy"]))
    repeated = set(_trainings_of(records[records["metric"] == NOISE_FLOOR].assign(order="0")))
    gone = set(lost(records, config))
    absent = (t for t in trainings(config) if replace(t, again=False) not in (repeated if t.again else finished))
    return [t for t in absent if t not in gone]


def lost(records: pd.DataFrame, config: Config) -> list[Training]:
    """The trainings that a configuration asks for and that diverged, or build on a training that did."""
    diverged = set(_trainings_of(records[records["metric"] == "diverged"]))
    last: dict[tuple[int, int], int] = {}
    for t in diverged:
        if config.densities is not None and t.level:  # one-shot levels do not build on each other
            continue
        for rewind in config.rewinds if t.method == "dense" else (t.rewind,):
            if t.order == 0 and t.method in ("dense", "imp"):
                last[t.replicate, rewind] = t.level
    return [
        t
        for t in trainings(config)
        if replace(t, again=False) in diverged or t.level > last.get((t.replicate, t.rewind), t.level)
    ]


def needed(
    absent: Collection[Training], config: Config, complete: Collection[Training] = frozenset()
) -> list[Training]:
    """The trainings that one store must have to record the `absent` ones, in the order to do them in.

    These are the absent ones, their dense runs, the levels that they build on, and the other data orders compared with
    them. A distance needs the weights of both ends in one store; recorded ends may be on another machine. A chain
    continues from its deepest level that is `complete` in the store and needs no level before that.
    """
    compared = {replace(t, order=0) for t in absent if t.method in ("imp", "random_pruning") and not t.again}
    wanted = [t for t in trainings(config) if t in absent or replace(t, order=0) in compared]
    levels: dict[Training, None] = {}
    lowest: dict[tuple[int, int], int] = {}
    for t in wanted:
        if t.level:
            chain = t.replicate, t.rewind
            lowest[chain] = min(t.level, lowest.get(chain, t.level))
    first = {chain: _deepest(complete, *chain, level) or 1 for chain, level in lowest.items()}
    for t in wanted:
        if t.level:
            start = first[t.replicate, t.rewind] if config.densities is None else t.level
            levels |= dict.fromkeys(Training(t.replicate, "imp", t.rewind, n, 0) for n in range(start, t.level + 1))
    runs = dict.fromkeys(dense(t.replicate) for t in wanted)
    return list(runs | levels | dict.fromkeys(wanted))


def _deepest(complete: Collection[Training], replicate: int, rewind: int, level: int) -> int:
    """The deepest complete level of a chain, not deeper than `level`; 0 if there is none."""
    chain = (Training(replicate, "imp", rewind, n, 0) for n in range(level, 0, -1))
    return next((training.level for training in chain if training in complete), 0)


def _ends(order: str) -> list[tuple[int, bool]]:
    """The data orders of a row, and whether each is a repetition: "0-0" compares order 0 with its repetition."""
    orders = [int(end) for end in order.split("-")]
    return [(end, position == 1 and end == orders[0]) for position, end in enumerate(orders)]


def _trainings_of(records: pd.DataFrame) -> list[Training]:
    columns = [records[name].tolist() for name in ("replicate", "method", "rewind", "level", "order")]
    return [Training(r, method, k, level, int(order)) for r, method, k, level, order in zip(*columns, strict=True)]


_Row = tuple[int, str, int, int, str, str | None]
"""Replicate, method, rewinding iteration, level, order, and the kind of barrier (None for other metrics)."""


def _row(barrier: Barrier) -> _Row:
    b = barrier.b
    return b.replicate, b.method, b.rewind, b.level, barrier.order, barrier.kind


def _rows(records: pd.DataFrame) -> list[_Row]:
    metrics = records["metric"].tolist()
    kinds = {metric: match[1] if (match := _BARRIER.fullmatch(metric)) else None for metric in set(metrics)}
    columns = [records[name].tolist() for name in ("replicate", "method", "rewind", "level", "order")]
    return list(zip(*columns, (kinds[metric] for metric in metrics), strict=True))
