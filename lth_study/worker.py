"""Doing a study: what to train next, and which distances and barriers to measure.

A `Worker` walks chains, the levels of a search in a replicate; `trainings` does and keeps what they ask for. The search
itself is `lth_core.imp`. `runner` and `parallel` start workers. Several of them, in any processes, share a run store.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from lth_core import Level, Mask, Ticket, iterative_magnitude_pruning, one_shot_pruning, subnetwork
from lth_study import barriers, seeds
from lth_study.files import Damaged
from lth_study.measure import measurable, measure
from lth_study.methods import TABLE
from lth_study.networks import build, initial_weights
from lth_study.origins import Origin
from lth_study.plan import Comparison
from lth_study.settings import Setting
from lth_study.store import Busy, StudyStore, Training, dense
from lth_study.training import Stopped
from lth_study.training.train import pruner
from lth_study.training.updates import MOMENTS, State
from lth_study.trainings import Trainings


def initial(setting: Setting, replicate: int) -> dict[str, Tensor]:
    """W_0 of a replicate."""
    return initial_weights(setting, seeds.stream(replicate, "init"))


def rewound(setting: Setting, state: State) -> State:
    """What a training goes on with of the dense run's state: without the optimiser's moments if they start fresh."""
    if setting.rewind_optimizer == "fresh":
        return {name: tensor for name, tensor in state.items() if not name.startswith(MOMENTS)}
    return state


def in_order(mask: Mask, ones: Mask) -> Mask:
    """A mask from a file, in the network's order. Files do not keep it, and random numbers are drawn in it."""
    return Mask({name: mask[name] for name in ones})


class Chain:
    """The chain of a replicate, a search and a rewinding iteration, with the controls and data orders at its levels."""

    def __init__(self, trainings: Trainings, replicate: int, method: str, rewind: int) -> None:
        self.trainings, self.replicate, self.rewind = trainings, replicate, rewind
        retrain = TABLE[method].retrain
        assert retrain is not None, method  # `Training.chain` names searches only
        self.method, self.retrain = method, retrain
        self.setting, self.store = trainings.setting, trainings.store
        self.ones = Mask.ones(build(self.setting))
        self.busy: Busy | None = None
        """The last training that another process was doing, and that `complete` passed over."""

    def complete(self, wanted: Collection[Training]) -> set[Training]:
        """Walk the chain as deep as `wanted` asks and do the wanted trainings at every level.

        Returns the wanted trainings that can be done: none below a training that diverged. Raises `Busy` when another
        process does a level that the rest builds on.
        """
        setting, store = self.setting, self.store
        end = self.dense_run()  # it leaves W_k behind
        for training in sorted(t for t in wanted if t.method == "dense" and t.order):
            self.end(training, subnetwork(self.initial(), self.ones, 0, 0))
        if end[1]["diverged_at"] is not None:
            return {t for t in wanted if t.method == "dense"}
        if setting.densities is None:
            numbers = list(range(max(t.level for t in wanted) + 1))
        else:  # levels that do not build on each other
            numbers = sorted({0, *(t.level for t in wanted)})
        chain = [Training(self.replicate, self.method, self.rewind, number, 0) for number in numbers]
        saved = _StoredChain(store, chain, Level(self.ones, self.rewound(), *end))

        def train_level(ticket: Ticket, _: int | None) -> tuple[State, dict[str, Any]]:
            return self.trainings.end(chain[ticket.level], ticket)  # never W_k or level 0, which `saved` has

        search = train_level, self.initial(), self.ones
        how: dict[str, Any] = {"rewind": self.rewind, "retrain": self.retrain, "iterations": setting.iterations}
        if setting.densities is None:
            first = min((t.level for t in wanted if t.level), default=0)
            while first and not store.saves(chain[first]).complete:
                first -= 1  # to a level that has a result: below one that diverged, nothing can be done
            levels = iterative_magnitude_pruning(
                *search, levels=numbers[-1], prune=pruner(setting), saved=saved, first=first, **how
            )
            numbers = numbers[first:]
        else:
            densities = [setting.densities[number - 1] for number in numbers[1:]]
            levels = one_shot_pruning(*search, densities=densities, saved=saved, **how)
        for level, (mask, rewound, _, result) in zip(numbers, levels, strict=True):
            for training in sorted(t for t in wanted if t.level == level and t.method != "dense" and t not in chain):
                self.end(training, self.ticket(training, mask, rewound))
            if result["diverged_at"] is not None and setting.densities is None:
                return {t for t in wanted if t.level <= level}
        return set(wanted)

    def end(self, training: Training, ticket: Ticket) -> None:
        """Do a training that nothing builds on, unless another process does it now."""
        try:
            self.trainings.end(training, ticket)
        except Busy as busy:
            self.busy = busy

    def ticket(self, training: Training, mask: Mask, rewound: State) -> Ticket:
        """What a training starts from, given its level's IMP mask and W_k."""
        images = self.trainings.data.train
        at = Origin(self.setting, images, self.replicate, self.rewind, training.level, mask, rewound)
        make = TABLE[training.method].ticket
        assert make is not None, training  # a search has trained it
        return make(at)

    def initial(self) -> dict[str, Tensor]:
        """W_0."""
        return initial(self.setting, self.replicate)

    def dense_run(self) -> tuple[State, dict[str, Any]]:
        """The end of the dense run. Training it keeps W_k for every rewinding iteration of the study."""
        ticket = subnetwork(self.initial(), self.ones, 0, 0)
        return self.trainings.end(dense(self.replicate), ticket, keep=self.trainings.rewinds - {0})

    def rewound(self) -> State:
        """W_k, with the optimiser's moments where they are rewound too."""
        if not self.rewind:
            return self.initial()
        return rewound(self.setting, self.dense_state(self.rewind))

    def dense_state(self, iteration: int) -> State:
        """W_k. One that the dense run did not leave behind is trained again from the nearest earlier one.

        Raises `Busy` when another process is doing that.
        """
        folder = self.store.saves(dense(self.replicate), self.trainings.maker)
        with suppress(Damaged):
            return folder.load_state(iteration)
        toward = folder.toward(iteration)
        with toward.locked():
            with suppress(Damaged):  # left behind by another process, since we looked
                return folder.load_state(iteration)
            start, earlier = folder.nearest_state(iteration)
            ticket = subnetwork(earlier or self.initial(), self.ones, start, 0)
            state = self.trainings.train(ticket, replicate=self.replicate, order=0, stop=iteration, saves=toward).state
            folder.save_state(iteration, state)
            toward.discard()
        return state


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
            mask = in_order(folder.load_mask(), self.level_0.mask)
            return Level(mask, self.level_0.rewound, folder.load_end(), folder.result())
        return None

    def keep(self, level: int, found: Level) -> None:
        """Do nothing: `Trainings.end` has kept the training, while it held the lock against other processes."""


class Worker:
    """One process's share of a study: it does what is missing and what no other process is doing."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings, self.store = trainings, trainings.store
        self.busy: Busy | None = None
        """What another process was seen to do last."""
        self.named: str | None = None

    def complete(self, absent: Collection[Training], comparisons: Collection[Comparison] = ()) -> None:
        """Do these trainings, and make those comparisons whose ends are then in the store.

        Waits for what another process is doing, and says for whom. Once that process is gone, does it here.
        """
        remaining = list(absent)
        while remaining:
            before, started = len(remaining), time.monotonic()
            for place in dict.fromkeys(training.chain for training in remaining):
                here = {t for t in remaining if t.chain == place}
                chain = Chain(self.trainings, *place)
                try:
                    reachable = chain.complete(here)
                except Busy as busy:
                    self.busy = busy
                    continue
                self.busy = chain.busy or self.busy
                remaining = [t for t in remaining if t not in here or t in reachable]
                self.compare(c for c in comparisons if c.b.chain == place)
            remaining = [t for t in remaining if not self.store.saves(t).complete]
            if len(remaining) == before:  # everything left is being done, or waits for what is being done, by others
                self.wait(min(30.0, 9 * (time.monotonic() - started)))
        while self.compare(comparisons):
            self.wait(1.0)

    def compare(self, comparisons: Iterable[Comparison]) -> int:
        """Make those of these comparisons that can be made. Returns how many are left to other processes."""
        busy = 0
        for comparison in comparisons:
            if not measurable(self.store, comparison):
                continue
            if self.trainings.stop_requested():
                raise Stopped
            try:
                measure(self.store, comparison, self.heights)
            except Busy as error:
                self.busy, busy = error, busy + 1
        return busy

    def heights(self, a: State, b: State) -> dict[str, float]:
        trainings = self.trainings
        return barriers.heights(trainings.setting, trainings.data, a, b, trainings.stop_requested)

    def wait(self, seconds: float) -> None:
        """Leave the processor to others: looking for work is work, since it loads what every level has left behind."""
        if self.busy is not None and self.busy.holder not in ("", self.named):
            self.named = self.busy.holder
            self.trainings.say(f"waits: {self.busy}")
        end = time.monotonic() + seconds
        while not self.trainings.stop_requested():
            time.sleep(0.5)
            if time.monotonic() >= end:
                return
        raise Stopped
