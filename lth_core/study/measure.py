"""Measuring stability: the distances between the trainings that a run store holds."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from lth_core.files import Damaged, read_json, write_json
from lth_core.study.store import Busy, StudyStore, Training, dense

if TYPE_CHECKING:
    from torch import Tensor

    from lth_core.masks import Mask


def measure(study: StudyStore) -> None:
    """Measure every stability that two finished trainings of a study allow and that is not measured yet.

    A training whose files turn out to be damaged is discarded: it is missing then, and can be done again.
    """
    finished = sorted(t for t, result in study.results().items() if result["diverged_at"] is None)
    levels: dict[tuple[int, str, int, int], Training] = {}
    for training in finished:
        if not training.again and training.method in ("imp", "random_pruning"):
            levels.setdefault(_level(training), training)
    for first in levels.values():
        _measure_level(study, first, finished)


def _measure_level(study: StudyStore, first: Training, finished: Collection[Training]) -> None:
    file = study.folder / Path(first.folder).parent / "distances.json"
    measured = read_json(file) if file.exists() else {}
    siblings = [t for t in finished if _level(t) == _level(first)]
    unpruned = dense(first.replicate)
    pairs = {"0": ("pruning", unpruned, first)} if first.order == 0 and unpruned in finished else {}
    for a, b in combinations(siblings, 2):
        if not a.again and not b.again:
            pairs[f"{a.order}-{b.order}"] = ("data_order", a, b)
        elif a.order == b.order:
            pairs[f"{a.order}-{b.order}"] = ("noise_floor", a, b)
    absent = {name: pair for name, pair in pairs.items() if name not in measured}
    if not absent:
        return
    from lth_core.stability import angle, l2_distance  # torch, which is needed only where something is measured

    try:
        mask = _read(study, first)[1]
        for name, (kind, a, b) in absent.items():
            ends = _read(study, a)[0], _read(study, b)[0]
            measured[name] = {f"l2_{kind}": l2_distance(*ends, mask)}
            with suppress(ValueError):  # a subnetwork without weights, or with none but 0, has no direction
                measured[name][f"angle_{kind}"] = angle(*ends, mask)
    except Damaged:
        return
    write_json(file, measured)


def _level(training: Training) -> tuple[int, str, int, int]:
    return training.replicate, training.method, training.rewind, training.level


def _read(study: StudyStore, training: Training) -> tuple[dict[str, Tensor], Mask]:
    """A finished training's end and mask. One that is damaged is discarded before the error goes on."""
    folder = study.saves(training)
    try:
        return folder.load_end(), folder.load_mask()
    except Damaged:
        with suppress(Busy), folder.locked():
            folder.discard()
        raise
