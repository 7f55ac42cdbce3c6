"""Networks that are trained at once, in every way that `gpu.py` measures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import chain, count, islice
from typing import Any

import torch
from common import half_ticket

from lth_study.data.parts import Dataset
from lth_study.networks import build
from lth_study.settings import Setting
from lth_study.training.steps import DrawnBatches, PlainSteps, RecordedSteps
from lth_study.training.train import prepare
from lth_study.training.updates import FlatNetwork, State


class Member:
    """A network on the device, with what it is trained from."""

    def __init__(self, setting: Setting, images: Dataset, replicate: int, way: str) -> None:
        torch.manual_seed(replicate)  # of the mask
        self.replicate, self.ticket = replicate, half_ticket(setting)
        model = build(setting).to(images.train.device)
        if way == "compiled graph":
            prepare(model, setting, images.train.device)
        self.network = FlatNetwork(model, self.ticket.mask, setting)
        self.network.model.train()
        if way == "loop":
            self.steps: Any = PlainSteps(setting, self.network, images.train, replicate, 0)
        else:
            batches = DrawnBatches(setting, images.train, replicate, 0)
            self.steps = RecordedSteps(setting, self.network, batches, compiled=way == "compiled graph")
        self.network.load(self.ticket.weights)
        self.stream = torch.cuda.Stream() if images.train.device.type == "cuda" else None

    def advance(self, iterations: int) -> None:
        """Do the first updates of a training, from where it is."""
        updates = chain.from_iterable(self.steps.epoch(epoch, 0) for epoch in count())
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            for update in islice(updates, iterations):
                update()

    def weights(self) -> State:
        """What training has come to, without batch norm's statistics."""
        state = self.network.state()
        return {name: state[name] for name in self.network.gradients}


def advance(members: Sequence[Member], iterations: int) -> float:
    """Do updates of all members at once, and return the seconds that it took."""
    synchronise()
    start = time.perf_counter()
    with ThreadPoolExecutor(len(members)) as pool:
        list(pool.map(lambda member: member.advance(iterations), members))
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """The most bytes that were set aside on the GPU: a recorded update keeps its own between replays."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
