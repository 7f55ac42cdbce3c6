"""Measuring and keeping the distances and the error barriers between trainings that a run store holds.

`worker` measures after each training, and `runner` what an interrupted run left. `records` reads the files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lth_study.files import Damaged, read_json, write_json
from lth_study.plan import Barrier, Comparison, Distance
from lth_study.store import Busy, StudyStore, Training, TrainingFolder

if TYPE_CHECKING:
    from torch import Tensor

    from lth_core.masks import Mask

Heights = Callable[[dict[str, "Tensor"], dict[str, "Tensor"]], Mapping[str, float]]
"""Names and measures the heights of the barrier between two ends."""
FILES: dict[type[Comparison], str] = {Distance: "distances.json", Barrier: "barriers.json"}
"""The file beside the trainings of a level that keeps its comparisons: order -> metric -> value."""


def measured(store: StudyStore, comparison: Comparison) -> bool:
    """Whether the store has a comparison."""
    return _proof(comparison) in _kept(store, comparison).get(comparison.order, {})


def summary(store: StudyStore, barrier: Barrier) -> str:
    """One line on a measured barrier."""
    height = _kept(store, barrier)[barrier.order][_proof(barrier)]
    return f"{barrier}: {height:.2f} points of test error over the mean of its ends"


def measurable(store: StudyStore, comparison: Comparison) -> bool:
    """Whether a comparison is still to be made and the store has both ends, of trainings that did not diverge."""
    folders = [store.saves(end) for end in (comparison.a, comparison.b)]
    return all(folder.complete and folder.result()["diverged_at"] is None for folder in folders) and not measured(
        store, comparison
    )


def measure(store: StudyStore, comparison: Comparison, heights: Heights | None = None) -> None:
    """Measure a comparison, unless another process has done so meanwhile, and keep it. A barrier needs `heights`.

    Raises `Busy` when another process is measuring at this level. An end that turns out to be damaged is discarded; the
    comparison then waits for it to be trained again.
    """
    file = _file(store, comparison)
    with TrainingFolder(file.parent).locked(), suppress(Damaged):
        if not measurable(store, comparison):
            return
        (a, _), (b, mask) = _read(store, comparison.a), _read(store, comparison.b)
        if isinstance(comparison, Distance):
            found = _lengths(comparison.kind, a, b, mask)
        else:
            assert heights is not None, comparison
            if comparison.kind == "level_masked":
                mask.apply_(a)
            found = {f"barrier_{comparison.kind}_{name}": height for name, height in heights(a, b).items()}
        kept = _kept(store, comparison)
        write_json(file, {**kept, comparison.order: {**kept.get(comparison.order, {}), **found}})


def _lengths(kind: str, a: dict[str, Tensor], b: dict[str, Tensor], mask: Mask) -> dict[str, float]:
    """The two metrics of a distance."""
    # Importing this imports torch. Looking at a store that is measured already does without.
    from lth_core.stability import stability_to_data_order, stability_to_pruning

    found = stability_to_pruning([(a, b)], mask) if kind == "pruning" else stability_to_data_order([a, b], mask)
    if math.isnan(found.angle):  # a subnetwork without weights, or with none but 0, has no direction
        return {f"l2_{kind}": found.l2}
    return {f"l2_{kind}": found.l2, f"angle_{kind}": found.angle}


def _proof(comparison: Comparison) -> str:
    """The metric that every comparison of a kind has."""
    kind = comparison.kind
    return f"barrier_{kind}_test_mean" if isinstance(comparison, Barrier) else f"l2_{kind}"


def _file(store: StudyStore, comparison: Comparison) -> Path:
    return store.folder / Path(comparison.b.folder).parent / FILES[type(comparison)]


def _kept(store: StudyStore, comparison: Comparison) -> dict[str, dict[str, float]]:
    """All comparisons that are kept with this one."""
    file = _file(store, comparison)
    return read_json(file) if file.exists() else {}


def _read(store: StudyStore, training: Training) -> tuple[dict[str, Tensor], Mask]:
    """A finished training's end and mask. One that is damaged is discarded before the error goes on."""
    folder = store.saves(training)
    try:
        return folder.load_end(), folder.load_mask()
    except Damaged:
        with suppress(Busy), folder.locked():
            folder.discard()
        raise
