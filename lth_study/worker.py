"""Doing a study: which network to train next, from which weights, under which mask, and keeping what comes of it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from lth_core import (
    Level,
    Mask,
    Ticket,
    iterative_magnitude_pruning,
    one_shot_pruning,
    random_pruning,
    random_reinitialisation,
    subnetwork,
)
from lth_study import __version__, barriers, data, ranks, records, seeds
from lth_study.data.parts import Dataset
from lth_study.devices import compute_device, device_name
from lth_study.files import Damaged, StoreError
from lth_study.measure import measurable, measure_barrier
from lth_study.networks import build, initial_weights
from lth_study.plan import Barrier
from lth_study.settings import Config, ConfigError
from lth_study.store import Busy, StudyStore, Training, dense
from lth_study.training import Stopped
from lth_study.training.train import Job, pruner, train
from lth_study.training.updates import MOMENTS, State


class Worker:
    """One process's share of a study: it does the trainings that are missing and that no other process is doing, and
    measures error barriers between them.

    `stop_requested` is asked before every update and every barrier; when it says yes, `Stopped` is raised with
    everything saved.
    `workers` is how many processes or threads there are for the study, this one among them, which is recorded.
    """

    def __init__(self, store: StudyStore, stop_requested: Callable[[], bool] = lambda: False, workers: int = 1) -> None:
        self.config = config = store.config
        self.store, self.workers = store, workers
        device = compute_device()
        if config.precision == "tf32" and device.type != "cuda":
            raise ConfigError(f"precision: tf32 is arithmetic of GPUs, not of the {device.type} here; choose float32")
        images = _images(config)
        self.fingerprint = images.fingerprint()
        self.data = images.to(device)
        self.ones = Mask.ones(build(config))
        self.rewinds: set[int] = set()
        recorded = set(records.known(store)[1]["data_fingerprint"])
        if others := (recorded - {self.fingerprint}) or ({store.images(self.fingerprint)} - {self.fingerprint}):
            raise StoreError(
                f"{config.name} is trained or recorded with other images (fingerprint {', '.join(sorted(others))}) "
                f"than those here ({self.fingerprint}); keep these runs and records in folders of their own "
                "(LTH_STORE, LTH_RESULTS)"
            )
        self.stop_requested = stop_requested

    def complete(self, absent: Collection[Training], open_barriers: Collection[Barrier] = ()) -> None:
        """Do these trainings, with what they need, and measure those barriers whose ends are then in the store.

        Waits for what another process is doing.
        """
        remaining = list(absent)
        self.rewinds = {training.rewind for training in absent}
        while remaining:
            before, started = len(remaining), time.monotonic()
            chains = dict.fromkeys((t.rewind, t.replicate) for t in remaining)
            for rewind, replicate in chains:
                here = {t for t in remaining if (t.rewind, t.replicate) == (rewind, replicate)}
                try:
                    reachable = self.chain(replicate, rewind, here)
                except Busy:
                    continue
                remaining = [t for t in remaining if t not in here or t in reachable]
                self.measure(b for b in open_barriers if (b.b.rewind, b.b.replicate) == (rewind, replicate))
            remaining = [t for t in remaining if not self.store.saves(t).complete]
            if len(remaining) == before:  # everything left is being done, or waits for what is being done, by others
                self.wait(min(30.0, 9 * (time.monotonic() - started)))
        while self.measure(open_barriers):
            self.wait(1.0)

    def measure(self, open_barriers: Iterable[Barrier]) -> int:
        """Measure those of these barriers that can be; returns how many are left to other processes."""
        busy = 0
        for barrier in open_barriers:
            if not measurable(self.store, barrier):
                continue
            if self.stop_requested():
                raise Stopped
            try:
                measure_barrier(self.store, barrier, lambda a, b: barriers.heights(self.config, self.data, a, b))
            except Busy:
                busy += 1
        return busy

    def wait(self, seconds: float) -> None:
        """Leave the processor to others: looking for work is work, since it loads what every level has left behind."""
        end = time.monotonic() + seconds
        while not self.stop_requested():
            time.sleep(0.5)
            if time.monotonic() >= end:
                return
        raise Stopped

    def chain(self, replicate: int, rewind: int, wanted: Collection[Training]) -> set[Training]:
        """Walk one IMP chain as deep as `wanted` asks and do the wanted trainings at every level.

        Returns the wanted trainings that can be done: none below a training that diverged.
        """

        end = self.dense_run(replicate)  # it leaves W_k behind
        for training in sorted(t for t in wanted if t.method == "dense" and t.order):
            with suppress(Busy):
                self.trained(training, subnetwork(self.initial(replicate), self.ones, 0, 0))
        if end[1]["diverged_at"] is not None:
            return {t for t in wanted if t.method == "dense"}
        config = self.config
        if config.densities is None:
            numbers = list(range(max(t.level for t in wanted) + 1))
        else:  # levels that do not build on each other
            numbers = sorted({0, *(t.level for t in wanted)})
        chain = [Training(replicate, "imp", rewind, number, 0) for number in numbers]
        saved = _StoredChain(self.store, chain, Level(self.ones, self.rewound(replicate, rewind), *end))

        def train_level(ticket: Ticket, _: int | None) -> tuple[State, dict[str, Any]]:
            return self.trained(chain[ticket.level], ticket)  # never W_k or level 0, which `saved` has

        search = train_level, self.initial(replicate), self.ones
        if config.densities is None:
            first = min((t.level for t in wanted if t.level), default=0)
            while first and not self.store.saves(chain[first]).complete:
                first -= 1  # to a level that has a result: below one that diverged, nothing can be done
            levels = iterative_magnitude_pruning(
                *search, levels=numbers[-1], rewind=rewind, prune=pruner(config), saved=saved, first=first
            )
            numbers = numbers[first:]
        else:
            densities = [config.densities[number - 1] for number in numbers[1:]]
            levels = one_shot_pruning(*search, densities=densities, rewind=rewind, saved=saved)
        for level, (mask, rewound, _, result) in zip(numbers, levels, strict=True):
            for training in sorted(t for t in wanted if t.level == level and t.method != "dense"):
                try:
                    self.trained(training, self.ticket(training, mask, rewound))
                except Busy:
                    continue
            if result["diverged_at"] is not None and config.densities is None:
                return {t for t in wanted if t.level <= level}
        return set(wanted)

    def ticket(self, training: Training, mask: Mask, rewound: State) -> Ticket:
        """What a training starts from, given its level's IMP mask and W_k."""
        replicate, level = training.replicate, training.level
        if training.method == "random_pruning":
            chance = seeds.stream(replicate, "random pruning", training.rewind, level)
            return random_pruning(mask, rewound, chance, training.rewind, level)
        if training.method == "random_reinit":
            fresh = initial_weights(self.config, seeds.stream(replicate, "reinit"))
            start = training.rewind if self.config.reinit_length == "remaining" else 0
            return random_reinitialisation(mask, fresh, start, level)
        return subnetwork(rewound, mask, training.rewind, level)

    def initial(self, replicate: int) -> dict[str, Tensor]:
        """W_0 of a replicate."""
        return initial_weights(self.config, seeds.stream(replicate, "init"))

    def dense_run(self, replicate: int) -> tuple[State, dict[str, Any]]:
        """The end of the dense run; training it leaves W_k for the rewinding iterations asked for behind."""
        ticket = subnetwork(self.initial(replicate), self.ones, 0, 0)
        return self.trained(dense(replicate), ticket, keep=self.rewinds - {0})

    def rewound(self, replicate: int, rewind: int) -> State:
        """W_k of a replicate, with the optimiser's moments where they are rewound too."""
        if not rewind:
            return self.initial(replicate)
        state = self.dense_state(replicate, rewind)
        if self.config.rewind_optimizer == "fresh":
            return {name: tensor for name, tensor in state.items() if not name.startswith(MOMENTS)}
        return state

    def dense_state(self, replicate: int, iteration: int) -> State:
        """W_k. One that the dense run did not leave behind is trained again from the nearest earlier one.

        Raises `Busy` when another process is doing that.
        """
        folder = self.store.saves(dense(replicate))
        with suppress(Damaged):
            return folder.load_state(iteration)
        toward = folder.toward(iteration)
        with toward.locked():
            with suppress(Damaged):  # left behind by another process, since we looked
                return folder.load_state(iteration)
            start, state = folder.nearest_state(iteration)
            ticket = subnetwork(state or self.initial(replicate), self.ones, start, 0)
            trained = train(
                self.config,
                self.data,
                ticket,
                replicate=replicate,
                order=0,
                stop=iteration,
                saves=toward,
                stop_requested=self.stop_requested,
            )
            folder.save_state(iteration, trained.state)
            toward.discard()
        return trained.state

    def trained(self, training: Training, ticket: Ticket, keep: Collection[int] = ()) -> tuple[State, dict[str, Any]]:
        """The end, without the optimiser's moments, and the result of a training, done now unless the store has them.

        An end that is damaged is done again. Raises `Busy` when another process is doing it.
        """
        folder = self.store.saves(training)
        with suppress(Damaged):
            return folder.load_end(), folder.result()
        with folder.locked():
            with suppress(Damaged):  # done by another process, since we looked
                return folder.load_end(), folder.result()
            if folder.complete:  # and damaged
                folder.discard()
            trained = train(
                self.config,
                self.data,
                ticket,
                replicate=training.replicate,
                order=training.order,
                keep=keep,
                saves=folder,
                stop_requested=self.stop_requested,
            )
            ended_at = self.config.iterations if trained.diverged_at is None else trained.diverged_at
            ended = {name: tensor for name, tensor in trained.state.items() if not name.startswith(MOMENTS)}
            result = {
                "training": vars(training),
                "density": ticket.mask.density,
                "density_by_layer": ticket.mask.density_by_layer(),
                "metrics": dict(trained.metrics),
                "diverged_at": trained.diverged_at,
                "provenance": self.provenance(ended_at - ticket.iteration, trained.seconds),
            }
            folder.finish(result, ended, ticket.mask)
        return ended, result

    def provenance(self, iterations: int, seconds: float) -> dict[str, Any]:
        """Where a number comes from."""
        return {
            "iterations": iterations,
            "seconds": round(seconds, 1),
            "workers": self.workers,
            "device": device_name(),
            "lth_core": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "data_fingerprint": self.fingerprint,
            "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        }


class _StoredChain:
    """The levels of a chain that a store has, for a search to go on from (`lth_core.Saved`).

    `chain` names the training of every level, by its number in the search. `level_0` is what the first of them gave.
    """

    def __init__(self, store: StudyStore, chain: Sequence[Training], level_0: Level) -> None:
        self.store, self.chain, self.level_0 = store, chain, level_0

    def load(self, level: int) -> Level | None:
        """A level, or None where its training is not complete or a file of it is damaged."""
        if level == 0:
            return self.level_0
        folder = self.store.saves(self.chain[level])
        if not folder.complete:
            return None
        with suppress(Damaged):
            mask = folder.load_mask()
            # In the network's order. Files do not keep it, and the controls' random numbers are drawn in it.
            mask = Mask({name: mask[name] for name in self.level_0.mask})
            return Level(mask, self.level_0.rewound, folder.load_end(), folder.result())
        return None

    def keep(self, level: int, found: Level) -> None:
        """Do nothing: `Worker.trained` has kept the training, while it held the lock against other processes."""


def take_part() -> Any:
    """What a process does that trains networks together with others and is not the first of them (`ranks`).

    Returns the first one's last word.
    """
    images: Dataset | None = None
    while isinstance(job := ranks.receive(), Job):
        config = Config.from_json(job.config)
        images = images or _images(config).to(compute_device())
        with suppress(Stopped):
            train(config, images, job.ticket, replicate=job.replicate, order=job.order, stop=job.stop)
    return job


def _images(config: Config) -> Dataset:
    """The data set of a configuration, in the processor's memory, if the configuration can be trained on it."""
    images = data.load(config.dataset, color=config.network != "lenet_300_100", size=config.image_size)
    if config.batch_size > len(images.train):
        raise ConfigError(f"batch_size: {config.batch_size} is more than the {len(images.train)} training images")
    classes = 1 + max(int(part.labels.max()) for part in (images.train, images.validation, images.test))
    if classes != config.classes:
        raise ConfigError(f"classes: the network has {config.classes}, and {data.TITLES[images.name]} has {classes}")
    count = ranks.rank_and_count()[1]
    if config.batch_size % count:
        raise ConfigError(f"batch_size: {config.batch_size} cannot be shared equally by {count} processes")
    return images
