"""Doing a study: which chain to walk next, and which distances and barriers to measure.

`runner` and `parallel` start workers. Several of them, in any processes, share a run store.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

from lth_study import barriers, ranks
from lth_study.chain import Chain
from lth_study.data.parts import Dataset
from lth_study.devices import compute_device
from lth_study.measure import measurable, measure
from lth_study.plan import Comparison
from lth_study.settings import Setting
from lth_study.store import Busy, Training
from lth_study.training import Stopped
from lth_study.training.train import Job, train
from lth_study.training.updates import State
from lth_study.trainings import Trainings, images_of


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
        return barriers.heights(self.trainings.setting, self.trainings.data, a, b)

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


def take_part() -> Any:
    """What a process does that trains networks together with others and is not the first of them (`ranks`).

    Returns the first one's last word.
    """
    images: Dataset | None = None
    while isinstance(job := ranks.receive(), Job):
        setting = Setting.from_json(job.setting)
        images = images or images_of(setting).to(compute_device())
        with suppress(Stopped):
            train(setting, images, job.ticket, replicate=job.replicate, order=job.order, stop=job.stop)
    return job
