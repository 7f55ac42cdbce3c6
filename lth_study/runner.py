"""`run` returns the records of a configuration and trains what is missing.

Notebooks and `report.dense` call `run`. `lth run` and `agenda.run` call `train_missing`. `plan` says what is missing;
`worker` and `parallel` train it. torch is imported only to train: recorded results appear without that wait.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
from tqdm import tqdm

from lth_study import plan, records
from lth_study.commands import how_to_make
from lth_study.files import StoreError
from lth_study.measure import barrier_measured, barrier_summary, measurable, measure
from lth_study.plan import Barrier
from lth_study.settings import IMAGENET_NETWORKS, Config, ConfigError
from lth_study.store import StudyStore, Training
from lth_study.training import Stopped

Style = Literal["bar", "lines"] | None

ALONE = 10.0
"""Seconds to train alone before starting helper processes: each takes seconds to start."""

ON_A_GPU = 12
"""Networks trained at once on a GPU by default. Some of the threads wait for levels that theirs build on. ImageNet's
networks are trained one by one: each fills a GPU."""


def run(
    config: Config,
    *,
    store: str | Path | None = None,
    missing: Literal["train", "error"] = "train",
    workers: int | None = None,
    seconds: float | None = None,
    progress: Style = None,
) -> pd.DataFrame:
    """The records that a configuration asks for. Trains what is missing and measures missing error barriers.

    Columns: `records.COLUMNS`, and from `records.traced` the `device` and when training was `finished`.

    Records come from the results folder and from the run store `store` (default: `LTH_STORE`, or `runs/`). With
    `missing="error"`, nothing is trained: `MissingRecords` says what is missing and how to train it. If the data set is
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
    if missing == "error":
        absent = plan.missing(_known(folder, config), config)
        if absent:
            raise plan.MissingRecords(how_to_make(config, absent))
    else:
        config = train_missing([config], folder, workers=workers, seconds=seconds, progress=progress)[0]
    study = StudyStore(folder, config)
    measure(study)
    return plan.select(records.traced(study), config)


def train_missing(
    configs: Sequence[Config],
    store: Path,
    *,
    workers: int | None = None,
    seconds: float | None = None,
    progress: Style = None,
) -> list[Config]:
    """Train what is missing from several configurations of one study, all at once. `run` describes the options.

    Returns the configurations with the data set that was used. If `torchrun` started several processes, the first one
    decides what to train, and all of them train it together.
    """
    options = {"workers": workers, "seconds": seconds, "progress": progress}
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return _complete(configs, store, **options)
    from lth_study import ranks
    from lth_study.devices import compute_device
    from lth_study.worker import take_part

    last_word: list[Config] | str
    with ranks.together(compute_device()) as rank:
        if rank:
            last_word = take_part()
        else:
            try:
                last_word = _complete(configs, store, **options)
            except Stopped as stopped:
                last_word = str(stopped)
            ranks.hand_out(last_word)
    if isinstance(last_word, str):
        raise Stopped(last_word)
    return last_word


def _complete(configs: Sequence[Config], store: Path, **options: Any) -> list[Config]:
    before: tuple[list[Training], list[Barrier]] | None = None
    while True:
        study, known = StudyStore(store, configs[0]), _known(store, configs[0])
        absent = list(dict.fromkeys(t for config in configs for t in plan.missing(known, config)))
        barriers = list(dict.fromkeys(b for config in configs for b in plan.unmeasured(known, config)))
        ready = [barrier for barrier in barriers if measurable(study, barrier)]
        if not absent and not ready:
            return list(configs)
        if (absent, ready) == before:
            raise StoreError(
                f"{configs[0].name}: trained, and still not recorded: {'; '.join(map(str, [*absent, *ready]))}"
            )
        from lth_study import data

        with warnings.catch_warnings():
            if not absent:  # only barriers are missing, and a stand-in's images cannot give them
                warnings.simplefilter("ignore")
            resolved = data.resolve(configs[0].dataset)
        if resolved == configs[0].dataset:
            complete = frozenset(study.results())
            wanted = list(dict.fromkeys(t for config in configs for t in plan.needed(absent, config, complete)))
            there = {t for b in barriers for t in (b.a, b.b) if t in wanted or t in complete}
            _train(study, wanted, [b for b in barriers if {b.a, b.b} <= there], **options)
            before = absent, ready
        elif not absent:
            return list(configs)
        configs = [config.updated(dataset=resolved) for config in configs]


def _known(store: Path, config: Config) -> pd.DataFrame:
    study = StudyStore(store, config)
    measure(study)
    return records.known(study)[0]


def _train(
    study: StudyStore,
    wanted: Sequence[Training],
    barriers: Sequence[Barrier],
    workers: int | None,
    seconds: float | None,
    progress: Style,
) -> None:
    """Do the trainings and barriers that the store lacks, several networks at once."""
    from lth_study.devices import compute_device, cores
    from lth_study.parallel import complete_side_by_side, helpers, stop_signals
    from lth_study.ranks import rank_and_count
    from lth_study.worker import Worker

    on_gpu = compute_device().type == "cuda"
    together = rank_and_count()[1]
    if together > 1 and workers not in (None, 1):
        raise ConfigError(f"workers: {workers} is too many; the {together} processes here train one network together")
    most = cores()
    if on_gpu:
        most = 1 if study.config.network in IMAGENET_NETWORKS else ON_A_GPU
    shares = max(len(wanted) - study.count(wanted), len({Path(barrier.b.folder).parent for barrier in barriers}))
    count = 1 if together > 1 else max(1, min(workers or most, shares))
    study.prepare()
    with (
        stop_signals() as stopping,
        _Progress(study, [*wanted, *barriers], progress) as shown,
        helpers(study, wanted, barriers) as get_help,
    ):
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        help_at = math.inf

        def stop_requested() -> bool:
            nonlocal help_at
            shown.update()
            if stopping.is_set() or time.monotonic() >= deadline:
                return True
            if time.monotonic() >= help_at:
                help_at = math.inf
                shown.say(f"{study.config.name}: {count} networks side by side from here on")
                get_help(count - 1)
                worker.workers = count
            return False

        # created before any helper, so that its errors appear once
        worker = Worker(study, stop_requested, workers=count if on_gpu else 1)
        try:
            if on_gpu:
                complete_side_by_side(worker, wanted, barriers, count)
            else:
                if count > 1:
                    help_at = time.monotonic() + (ALONE if workers is None else 0)
                worker.complete(wanted, barriers)
        except Stopped:
            measured = f"{sum(barrier_measured(study, barrier) for barrier in barriers)} of {len(barriers)}"
            done = f"{study.count(wanted)} of {len(wanted)}"
            raise Stopped(f"{study.config.name}: stopped with {measured} barriers and {done} trainings done") from None


class _Progress:
    """Shows how many of the wanted trainings and barriers are done, by any process."""

    def __init__(self, study: StudyStore, wanted: Sequence[Training | Barrier], style: Style) -> None:
        self.study = study
        self.waiting = [step for step in wanted if not self.done(step)]
        self.total = len(wanted)
        self.style = style
        self.next = 0.0
        done = self.total - len(self.waiting)
        self.bar = tqdm(total=self.total, initial=done, unit="step", disable=style != "bar", smoothing=0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.next = 0.0
        self.update()
        self.bar.close()

    def done(self, step: Training | Barrier) -> bool:
        if isinstance(step, Barrier):
            return barrier_measured(self.study, step)
        return self.study.saves(step).complete

    def summary(self, step: Training | Barrier) -> str:
        return barrier_summary(self.study, step) if isinstance(step, Barrier) else self.study.summary(step)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.style is not None:
            self.bar.write(text)

    def update(self) -> None:
        """Count what is done and show it, at most once a second."""
        if self.style is None or time.monotonic() < self.next:
            return
        self.next = time.monotonic() + 1
        finished = [step for step in self.waiting if self.done(step)]
        self.waiting = [step for step in self.waiting if step not in finished]
        self.bar.update(len(finished))
        if self.style == "lines":
            for position, step in enumerate(finished, self.total - len(self.waiting) - len(finished) + 1):
                print(f"[{position}/{self.total}] {self.summary(step)}", flush=True)
