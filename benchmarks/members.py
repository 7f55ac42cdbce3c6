"""Networks that are trained at once, in every way that `gpu.py` measures: each by itself, several as one, each in a
process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any, TextIO

import torch
from common import half_ticket
from torch import Tensor, nn
from torch.nn import functional as F

from lth_core.config import Config
from lth_core.data.parts import Batch, Dataset, Split
from lth_core.imp import Ticket
from lth_core.masks import Mask
from lth_core.models import build
from lth_core.models.network import ColorNetwork
from lth_core.training.steps import DrawnBatches, PlainSteps, RecordedSteps
from lth_core.training.train import prepare
from lth_core.training.updates import FlatNetwork, State, products


@dataclass(frozen=True)
class Ended:
    """The weights, without batch norm's statistics, that the training of a ticket has come to."""

    replicate: int
    ticket: Ticket
    weights: State


class Member:
    """A network on the device, with what it is trained from."""

    def __init__(self, config: Config, images: Dataset, replicate: int, way: str) -> None:
        self.replicate, self.ticket = replicate, _ticket(config, replicate)
        model = build(config).to(images.train.device)
        if way == "compiled graph":
            prepare(model, config, images.train.device)
        self.network = FlatNetwork(model, self.ticket.mask, config)
        self.network.model.train()
        if way == "loop":
            self.steps: Any = PlainSteps(config, self.network, images.train, replicate, 0)
        else:
            batches = DrawnBatches(config, images.train, replicate, 0)
            self.steps = RecordedSteps(config, self.network, batches, compiled=way == "compiled graph")
        self.network.load(self.ticket.weights)
        self.stream = torch.cuda.Stream() if images.train.device.type == "cuda" else None

    def advance(self, iterations: int) -> None:
        """Do the first updates of a training, from where it is."""
        updates = chain.from_iterable(self.steps.epoch(epoch, 0) for epoch in count())
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            for update in islice(updates, iterations):
                update()

    def ended(self) -> list[Ended]:
        state = self.network.state()
        return [Ended(self.replicate, self.ticket, {name: state[name] for name in self.network.gradients})]


class Grouped(Member):
    """Several networks as one of as many times the channels, in groups: a convolution of all is one with groups.

    That is what `torch.func.vmap` makes of convolutions too, which lacks batch norm with images in bfloat16.
    """

    def __init__(self, config: Config, images: Dataset, replicates: Sequence[int]) -> None:
        self.replicates, self.tickets = replicates, [_ticket(config, replicate) for replicate in replicates]
        device = images.train.device
        mask = Mask({name: torch.cat([t.mask[name] for t in self.tickets]) for name in self.tickets[0].mask})
        self.network = _GroupedNetwork(grouped(build(config), len(replicates)).to(device), mask, config)
        self.network.model.train()
        batches = _GroupedBatches(config, images.train, replicates)
        self.steps = RecordedSteps(config, self.network, batches, compiled=device.type == "cuda")
        weights = [ticket.weights for ticket in self.tickets]
        self.network.load({name: _joined([each[name] for each in weights]) for name in weights[0]})
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None

    def ended(self) -> list[Ended]:
        state = self.network.state()
        parts = {name: state[name].chunk(len(self.tickets)) for name in self.network.gradients}
        return [
            Ended(replicate, ticket, {name: part[position] for name, part in parts.items()})
            for position, (replicate, ticket) in enumerate(zip(self.replicates, self.tickets, strict=True))
        ]


class _GroupedNetwork(FlatNetwork):
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The sum of the networks' losses, whose gradient is that of each."""
        with products(self.config, images.device):
            logits = self.model(images).view(labels.numel(), -1)
            return F.cross_entropy(logits, labels.flatten()) * labels.shape[1]


class _GroupedBatches(DrawnBatches):
    """Those of several trainings: images [batch, networks * channels, height, width], labels [batch, networks]."""

    def __init__(self, config: Config, part: Split, replicates: Sequence[int]) -> None:
        self.part = part
        self.all = [DrawnBatches(config, part, replicate, 0) for replicate in replicates]

    def draw(self, epoch: int) -> None:
        for batches in self.all:
            batches.draw(epoch)

    def batch(self, iteration: Tensor) -> Batch:
        images, labels = zip(*(batches.batch(iteration) for batches in self.all), strict=True)
        return torch.cat(images, 1), torch.stack(labels, 1)


class GroupedLinear(nn.Linear):
    """As many output layers as there are groups: features [batch, groups * inputs] to logits [batch, groups * 10]."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(inputs, groups * outputs)
        self.groups = groups

    def forward(self, features: Tensor) -> Tensor:
        filters = self.weight.unflatten(0, (self.groups, -1))
        each = torch.einsum("bgi,goi->bgo", features.unflatten(1, (self.groups, -1)), filters)
        return each.flatten(1) + self.bias


def grouped(model: nn.Module, groups: int) -> nn.Module:
    """Widen a network of CIFAR-10's, in place, to as many as there are groups."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                channels = groups * child.in_channels, groups * child.out_channels
                shape = child.kernel_size, child.stride, child.padding
                setattr(module, name, nn.Conv2d(*channels, *shape, groups=groups, bias=False))
            elif isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(groups * child.num_features))
            elif isinstance(child, nn.Linear):
                setattr(module, name, GroupedLinear(child.in_features, child.out_features, groups))
    assert isinstance(model, ColorNetwork)
    model.mean, model.deviation = model.mean.repeat(groups, 1, 1), model.deviation.repeat(groups, 1, 1)
    return model


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors)) if tensors[0].dim() else tensors[0]


class Process:
    """A network that another process trains as a compiled graph; it does as many updates as it is told to."""

    def __init__(self, *arguments: str) -> None:
        self.memory = 0
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def advance(self, iterations: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # where it has ended, there is no answer either
            self.process.stdin.write(f"{iterations}\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a process ended with {self.process.wait()} instead of training")
        self.memory = int(answer)

    def close(self) -> None:
        """Let it end."""
        with suppress(BrokenPipeError):
            self.process.communicate()
        self.process.wait()


def own_output() -> TextIO:
    """This process's output, for answers alone: whatever else is printed from here on goes where errors go."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def serve(member: Member, answers: TextIO) -> None:
    """What such a process does: updates as told, a number a line, answering with the most memory it set aside."""
    for line in sys.stdin:
        advance([member], int(line))
        print(peak_memory(), file=answers, flush=True)


def advance(members: Sequence[Member | Process], iterations: int) -> float:
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


def _ticket(config: Config, replicate: int) -> Ticket:
    torch.manual_seed(replicate)  # of the mask
    return half_ticket(config)
