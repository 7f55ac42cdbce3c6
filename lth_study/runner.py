"""`run` returns the records of a study and trains what is missing.

Notebooks and `report.dense` call `run`. `lth run` and `agenda.run` call `train_missing`. `plan` says what is missing;
`worker` and `parallel` train it. torch is imported only to train: recorded results appear without that wait.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lth_study import plan, records
from lth_study.checked import whole_number
from lth_study.commands import how_to_make
from lth_study.extents import Study
from lth_study.files import StoreError
from lth_study.measure import measurable, measure, measured
from lth_study.methods import TABLE
from lth_study.plan import Barrier, Comparison, Distance
from lth_study.progress import Progress, Style
from lth_study.settings import IMAGENET_NETWORKS, SettingError
from lth_study.store import Busy, StudyStore, Training
from lth_study.training import Stopped
from lth_study.units import in_part

ALONE = 10.0
"""Seconds to train alone before starting helper processes: each takes seconds to start."""

ON_A_GPU = 12
"""Networks trained at once on a GPU by default. Some of the threads wait for levels that theirs build on. ImageNet's
networks are trained one by one: each fills a GPU."""


def run(
    study: Study,
    *,
    store: str | Path | None = None,
    missing: Literal["train", "error"] = "train",
    workers: int | None = None,
    seconds: float | None = None,
    progress: Style = None,
) -> pd.DataFrame:
    """The records that a study's figures ask for. Trains what is missing, and measures missing distances and barriers.

    Columns: `tables.COLUMNS`, and from `records.traced` the `device` and when training was `finished`.

    Records come from the results folder and from the run store `store` (default: `LTH_STORE`, or `runs/`). With
    `missing="error"`, nothing is written: `MissingRecords` says what is missing and how to train it. If the data set is
    missing, `data.resolve` warns and replaces it by its stand-in. The records then name the stand-in.

    `workers` networks are trained at once. A processor trains each in a process (default: one, and one per core after
    `ALONE` seconds). A GPU trains them in threads (default: `ON_A_GPU`, or one for ImageNet's networks). After
    `seconds`, on Ctrl-C and on SIGTERM, trainings save a checkpoint and `Stopped` is raised. The next call resumes.
    """
    if missing not in ("train", "error"):
        raise ValueError(f"missing={missing!r} is not valid; expected 'train' or 'error'")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers!r} is not valid; expected 1 or more networks at once, or None")
    folder = Path(store) if store is not None else records.store_folder()
    if missing == "train":
        study = train_missing(study, folder, workers=workers, seconds=seconds, progress=progress)
    found = records.traced(study.setting, folder)
    if missing == "error" and (absent := plan.missing(found, study)):
        raise plan.MissingRecords(records.no_results() + how_to_make(study, absent))
    return plan.select(found, study)


def train_missing(
    study: Study,
    folder: Path,
    *,
    workers: int | None = None,
    seconds: float | None = None,
    progress: Style = None,
    part: str | None = None,
    stand_in: bool = True,
) -> Study:
    """Train what is missing for all figures of a study, in the run store `folder`. `run` describes the options.

    `part` chooses some of the trainings (`units.in_part`); what they build on is trained as well. Without `stand_in`, a
    missing data set is a `DataError`.
    Returns the study with the data set that was used. If `torchrun` started several processes, the first one decides
    what to train, and all of them train it together.
    """
    chosen = in_part(part)
    if not any(map(chosen, plan.trainings(study))):
        raise SettingError(f"--part: {part} has no training of {study.setting.name}; lth plan lists its parts")
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    options: dict[str, Any] = {"workers": workers, "deadline": deadline, "progress": progress}
    options |= {"chosen": chosen, "stand_in": stand_in}
    if whole_number("WORLD_SIZE", 1) <= 1:
        return _complete(study, folder, **options)
    from lth_study import ranks
    from lth_study.devices import compute_device
    from lth_study.trainings import take_part

    last_word: Study | str
    with ranks.together(compute_device()) as rank:
        if rank:
            last_word = take_part()
        else:
            try:
                last_word = _complete(study, folder, **options)
            except Stopped as stopped:
                last_word = str(stopped)
            ranks.hand_out(last_word)
    if isinstance(last_word, str):
        raise Stopped(last_word)
    return last_word


def _complete(study: Study, folder: Path, chosen: Callable[[Training], bool], stand_in: bool, **options: Any) -> Study:
    before: tuple[list[Training], list[Comparison]] | None = None
    while True:
        store = StudyStore(folder, study.setting)
        known = records.known(study.setting, folder)[0]
        absent = [training for training in plan.missing(known, study) if chosen(training)]
        apart = [comparison for comparison in plan.unmeasured(known, study) if chosen(comparison.b)]
        ready = [comparison for comparison in apart if measurable(store, comparison)]
        if not absent and not ready:
            return study
        if (absent, ready) == before:
            raise StoreError(
                f"{study.setting.name}: trained, and still not recorded: {'; '.join(map(str, [*absent, *ready]))}"
            )
        before = absent, ready
        distances = [comparison for comparison in ready if isinstance(comparison, Distance)]
        # An interrupted run left them. They need no images. A repetition is absent until its distance is measured.
        if distances and store.count(absent) == len(absent):
            for distance in distances:
                _measure(store, distance)
            continue
        from lth_study import data
        from lth_study.data.parts import DataError

        try:
            with warnings.catch_warnings():
                if not absent:  # only barriers are missing, and a stand-in's images cannot give them
                    warnings.simplefilter("ignore")
                resolved = data.resolve(study.setting.dataset)
            if resolved == study.setting.dataset:
                complete = frozenset(store.results())
                # recorded trainings are repeated only to be compared with absent ones
                new = [c for c in apart if isinstance(c, Distance) and not {c.a, c.b}.isdisjoint(absent)]
                wanted = plan.needed(absent, new, study, complete)
                there = {*wanted, *complete}
                _train(study, store, wanted, [c for c in apart if {c.a, c.b} <= there], **options)
                continue
        except DataError as error:
            if absent:
                raise
            warnings.warn(f"error barriers are not measured: {error}", stacklevel=4)
            return study
        if not absent:
            return study
        if not stand_in:
            raise DataError(f"dataset: {study.setting.dataset} is missing; put it into the folder LTH_DATA")
        study, before = study.updated(dataset=resolved), None


def _measure(store: StudyStore, distance: Distance) -> None:
    """Measure a distance. Waits for another process that measures at the same level."""
    while True:
        try:
            return measure(store, distance)
        except Busy:
            time.sleep(1.0)


def _train(
    study: Study,
    store: StudyStore,
    wanted: Sequence[Training],
    comparisons: Sequence[Comparison],
    workers: int | None,
    deadline: float,
    progress: Style,
) -> None:
    """Do the trainings and comparisons that the store lacks, several networks at once, until the deadline."""
    from lth_study.devices import compute_device, cores, device_name
    from lth_study.parallel import complete_side_by_side, helpers, stop_signals
    from lth_study.ranks import rank_and_count
    from lth_study.training.train import memory_explained
    from lth_study.trainings import Trainings
    from lth_study.worker import Worker

    on_gpu = compute_device().type == "cuda"
    together = rank_and_count()[1]
    if together > 1 and workers not in (None, 1):
        raise SettingError(f"workers: {workers} is too many; the {together} processes here train one network together")
    most = cores()
    if on_gpu:
        most = 1 if study.setting.network in IMAGENET_NETWORKS else ON_A_GPU
    barriers = [comparison for comparison in comparisons if isinstance(comparison, Barrier)]
    shares = max(len(wanted) - store.count(wanted), len({Path(barrier.b.folder).parent for barrier in barriers}))
    count = 1 if together > 1 else max(1, min(workers or most, shares))
    if study.setting.precision == "tf32" and any(t.level and TABLE[t.method].starts == "initial" for t in wanted):
        count = 1  # scores are float32, and TF32 is switched for the whole process
    rewinds = {rewind for extent in study.extents.values() for rewind in extent.rewinds}
    store.prepare()
    with (
        memory_explained(study.setting),
        stop_signals() as stopping,
        Progress(store, [*wanted, *barriers], progress) as shown,
        helpers(store, wanted, comparisons, rewinds) as get_help,
    ):
        help_at = math.inf

        def stop_requested() -> bool:
            nonlocal help_at
            shown.update()
            if stopping.is_set() or time.monotonic() >= deadline:
                return True
            if time.monotonic() >= help_at:
                help_at = math.inf
                shown.say(f"{study.setting.name}: {count} networks side by side from here on")
                get_help(count - 1)
                trainings.workers = count
            return False

        # created before any helper, so that its errors appear once
        trainings = Trainings(store, rewinds, stop_requested, workers=count if on_gpu else 1, say=shown.say)
        before = {result["provenance"]["device"] for result in store.results().values()}
        if before and (others := before - {device_name()}):
            shown.say(f"goes on from trainings of {', '.join(sorted(others))}; {device_name()} rounds differently")
        try:
            if on_gpu:
                complete_side_by_side(trainings, wanted, comparisons, count)
            else:
                if count > 1:
                    help_at = time.monotonic() + (ALONE if workers is None else 0)
                Worker(trainings).complete(wanted, comparisons)
        except Stopped:
            done = f"{sum(measured(store, barrier) for barrier in barriers)} of {len(barriers)} barriers"
            done += f" and {store.count(wanted)} of {len(wanted)} trainings"
            raise Stopped(f"{study.setting.name}: stopped with {done} done") from None
