"""`lth agenda --run`: `runner` trains the parts, replicate by replicate, and `records` exports each replicate."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lth_study import data, plan, records
from lth_study.agenda.parts import Part
from lth_study.agenda.table import absent, known
from lth_study.data.parts import DataError
from lth_study.devices import compute_device, device_name
from lth_study.extents import Study
from lth_study.files import StoreError
from lth_study.measure import measurable
from lth_study.parallel import stop_signals
from lth_study.presets import preset
from lth_study.progress import Style
from lth_study.runner import train_missing
from lth_study.store import StudyStore, dense
from lth_study.trainings import Trainings
from lth_study.worker import Worker

LARGEST_DIFFERENCE = 2.0
"""The largest difference, in points of accuracy, that a reduced precision may have from float32."""
_PRECISIONS = ("float32", "tf32", "bfloat16")


class Imprecise(RuntimeError):
    """A reduced precision of this GPU trains to another accuracy than float32."""


def run_parts(
    listed: Sequence[Part],
    store: Path,
    destination: Path,
    *,
    workers: int | None = None,
    seconds: float | None = None,
    progress: Style = "lines",
) -> None:
    """Train what these parts lack, in their order, and export records after every replicate.

    Skips, and prints: replicates that another kind of processor made, and studies whose images are missing or differ
    from the recorded ones. It uses no stand-in for a data set. On a GPU, `check_precisions` comes first. After
    `seconds`, on Ctrl-C and on SIGTERM, it exports what is finished and raises `Stopped`. The next call resumes.
    Raises `StoreError` at the end if the last export was refused.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    reason, refused = cache(_not_there), None
    if compute_device().type == "cuda":
        if why := reason("cifar10"):
            print(f"precisions are not compared: {why}", flush=True)
        else:
            check_precisions(store, deadline)
    for part in listed:
        for study in part.studies:
            setting = study.setting
            if absent(study, known(store, setting), device_name()) and reason(setting.dataset):
                print(f"{part.name}: skipped: {setting.name}: {reason(setting.dataset)}", flush=True)
        for replicate in part.replicates():
            place, trained = f"{part.name}, replicate {replicate}", False
            try:
                for study in part.replicate(replicate).studies:
                    if not _can_be_added_to(study, store, place) or reason(study.setting.dataset):
                        continue
                    trained = True
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    try:
                        train_missing(study, store, workers=workers, seconds=left, progress=progress)
                    except (DataError, StoreError) as error:  # the images are damaged or not the recorded ones
                        print(f"{place}: skipped: {study.setting.name}: {error}", flush=True)
            finally:
                if trained:
                    refused = _export(place, store, destination)
    if refused is not None:
        raise refused


def what_is_left(listed: Sequence[Part], store: Path, device: str) -> list[str]:
    """A line for every part that still lacks trainings on the device."""
    counts = {p.name: sum(len(absent(s, known(store, s.setting), device)) for s in p.studies) for p in listed}
    return [f"left: {name}, {count} trainings" for name, count in counts.items() if count]


def check_precisions(store: Path, deadline: float | None = None) -> None:
    """Train the dense ResNet-20 of the profile `tenth` in every precision on this GPU and compare the accuracies.

    A store of their own keeps these trainings apart: another device may have made the study's. Raises `Imprecise` if
    tf32 or bfloat16 differs from float32 by more than `LARGEST_DIFFERENCE`, and `Stopped` at the deadline or a signal.
    """
    accuracy = {
        precision: _accuracy(precision, store / f"precisions on {device_name()}", deadline) for precision in _PRECISIONS
    }
    shown = ", ".join(f"{precision} {value:.2f}%" for precision, value in accuracy.items())
    print(f"ResNet-20 dense, 3,000 iterations, test accuracy: {shown}", flush=True)
    if far := [p for p, value in accuracy.items() if not abs(value - accuracy["float32"]) <= LARGEST_DIFFERENCE]:
        raise Imprecise(
            f"{' and '.join(far)}: more than {LARGEST_DIFFERENCE:g} points from float32 on {device_name()} ({shown}); "
            "expected all precisions within that; run the agenda on another device"
        )


def _accuracy(precision: str, folder: Path, deadline: float | None) -> float:
    setting = preset("resnet20", profile="tenth").setting.updated(dataset="cifar10", precision=precision)
    study = StudyStore(folder, setting)
    training = dense(1)
    if not study.saves(training).complete:
        study.prepare()
        with stop_signals() as stopping:
            late = lambda: stopping.is_set() or (deadline is not None and time.monotonic() >= deadline)  # noqa: E731
            Worker(Trainings(study, stop_requested=late)).complete([training])
    metrics = study.saves(training).result()["metrics"]
    return float(metrics.get("test_accuracy", float("nan")))  # a diverged training has none


def _can_be_added_to(study: Study, store: Path, place: str) -> bool:
    """Whether this device can add to one replicate of a study. Prints a line if only another processor can."""
    found, device, kept = known(store, study.setting), device_name(), StudyStore(store, study.setting)
    there = found.elsewhere(device).get(study.extent.replicates[0], device)
    apart = plan.unmeasured(found.values, study)
    missing = bool(absent(study, found, there)) or any(measurable(kept, comparison) for comparison in apart)
    if missing and there != device:
        print(f"{place}: skipped: {study.setting.name}: made by {there}; here is {device}", flush=True)
    return missing and there == device


def _not_there(dataset: str) -> str:
    """Why a data set is missing; "" if it is not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            resolved = data.resolve(dataset)
        except DataError as error:
            return str(error)
    return "" if resolved == dataset else "; ".join(str(warning.message) for warning in caught)


def _export(done: str, store: Path, destination: Path) -> StoreError | None:
    """Export what is finished. Prints and returns a refusal: a conflict in one study must not end the run."""
    try:
        folders = records.export_store(store, destination)
    except StoreError as error:
        print(f"{done}: not all exported: {error}", flush=True)
        return error
    print(f"{done}: {len(folders)} studies exported to {destination}", flush=True)
    return None
