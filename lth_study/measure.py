"""Measuring stability: the distances and the error barriers between the trainings that a run store holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from lth_study.files import Damaged, read_json, write_json
from lth_study.plan import Barrier
from lth_study.store import Busy, StudyStore, Training, TrainingFolder, dense

if TYPE_CHECKING:
    from torch import Tensor

    from lth_core.masks import Mask


def measure(study: StudyStore) -> None:
    """Measure every distance that two finished trainings of a study allow and that is not measured yet.

    A training whose files turn out to be damaged is discarded: it is missing then, and can be done again.
    """
    finished = sorted(t for t, result in study.results().items() if result["diverged_at"] is None)
    levels: dict[tuple[int, str, int, int], Training] = {}
    for training in finished:
        if not training.again and training.method in ("imp", "random_pruning"):
            levels.setdefault(_level(training), training)
    for first in levels.values():
        _measure_level(study, first, finished)


def barrier_measured(study: StudyStore, barrier: Barrier) -> bool:
    """Whether the store has a barrier's heights."""
    return f"barrier_{barrier.kind}_test_mean" in _barriers(study, barrier).get(barrier.order, {})


def barrier_summary(study: StudyStore, barrier: Barrier) -> str:
    """One line on a measured barrier."""
    height = _barriers(study, barrier)[barrier.order][f"barrier_{barrier.kind}_test_mean"]
    return f"{barrier}: {height:.2f} points of test error over the mean of its ends"


def measurable(study: StudyStore, barrier: Barrier) -> bool:
    """Whether a barrier is still to be measured and the store has both ends, of trainings that did not diverge."""
    folders = [study.saves(end) for end in (barrier.a, barrier.b)]
    return all(
        folder.complete and folder.result()["diverged_at"] is None for folder in folders
    ) and not barrier_measured(study, barrier)


def measure_barrier(
    study: StudyStore,
    barrier: Barrier,
    heights: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, float]],
) -> None:
    """Measure a barrier, unless another process has done so meanwhile, and keep it beside the distances of its level.

    `heights` names and measures the heights between two ends. Raises `Busy` when another process is measuring at this
    level. An end that turns out to be damaged is discarded; the barrier then waits for it to be trained again.
    """
    file = _barriers_file(study, barrier)
    with TrainingFolder(file.parent).locked(), suppress(Damaged):
        if not measurable(study, barrier):
            return
        (a, _), (b, mask) = _read(study, barrier.a), _read(study, barrier.b)
        if barrier.kind == "level_masked":
            mask.apply_(a)
        found = {f"barrier_{barrier.kind}_{name}": height for name, height in heights(a, b).items()}
        measured = _barriers(study, barrier)
        write_json(file, {**measured, barrier.order: {**measured.get(barrier.order, {}), **found}})


def _barriers_file(study: StudyStore, barrier: Barrier) -> Path:
    return study.folder / Path(barrier.b.folder).parent / "barriers.json"


def _barriers(study: StudyStore, barrier: Barrier) -> dict[str, dict[str, float]]:
    """The heights of all barriers that are kept with this one: order -> metric -> value."""
    file = _barriers_file(study, barrier)
    return read_json(file) if file.exists() else {}


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
    # Importing this imports torch. Reading a store that is measured already does without.
    from lth_core.stability import stability_to_data_order, stability_to_pruning

    try:
        mask = _read(study, first)[1]
        for name, (kind, a, b) in absent.items():
            ends = _read(study, a)[0], _read(study, b)[0]
            found = stability_to_pruning([ends], mask) if kind == "pruning" else stability_to_data_order(ends, mask)
            measured[name] = {f"l2_{kind}": found.l2}
            if not math.isnan(found.angle):  # a subnetwork without weights, or with none but 0, has no direction
                measured[name][f"angle_{kind}"] = found.angle
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
