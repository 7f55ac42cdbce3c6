"""The updates of a training, epoch by epoch: one by one from batches, or, on a GPU, replayed from a CUDA graph.

On a GPU an update of a small network is hundreds of kernels of a few microseconds each, and starting them one by one
takes the processor longer than doing them takes the GPU. A CUDA graph is the whole update (choosing the batch, crops,
forward, backward, optimiser, learning rate), recorded once and started as one.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from lth_study.data.augmentation import Augmentation, augmentation
from lth_study.data.parts import Batch, Part, Split
from lth_study.ranks import rank_and_count
from lth_study.seeds import drawing, dropout_stream, epoch_order
from lth_study.settings import Config, ConfigError
from lth_study.training.batches import training_batches
from lth_study.training.updates import FlatNetwork, learning_rate

Update = Callable[[], object]
"""Does the next update of a training."""

WARM_UP = 3
"""Updates before one is recorded, in which libraries choose their algorithms and set aside their memory."""
WORTH_COMPILING = 2_000
"""Iterations of a training from which compiling its network pays, which takes most of a minute."""
AHEAD = 16
"""Updates that the processor starts before it waits for the GPU: enough to keep it busy, few enough to stop soon."""
_recording = threading.Lock()


class Steps(Protocol):
    """The updates of one training."""

    def epoch(self, epoch: int, first: int) -> Iterator[Update]:
        """Those of an epoch, from batch `first` on, each to be called once and in turn."""


def steps(config: Config, network: FlatNetwork, part: Part, *, replicate: int, order: int) -> Steps:
    """The updates of a network in a data order of a replicate, in the way that suits the device.

    The network's weights are overwritten: load them afterwards.
    """
    if isinstance(part, Split) and can_be_recorded(network, part):
        compiled = config.iterations >= WORTH_COMPILING
        return RecordedSteps(config, network, DrawnBatches(config, part, replicate, order), compiled)
    return PlainSteps(config, network, part, replicate, order)


def can_be_recorded(network: FlatNetwork, part: Split) -> bool:
    """Whether an update can be a CUDA graph: the images are in a GPU's memory, and nothing is drawn or exchanged with
    other processes on the way."""
    return part.device.type == "cuda" and rank_and_count()[1] == 1 and not _drops_out(network)


def _drops_out(network: FlatNetwork) -> bool:
    return any(isinstance(module, nn.Dropout) for module in network.model.modules())


class PlainSteps:
    """Updates one by one."""

    def __init__(self, config: Config, network: FlatNetwork, part: Part, replicate: int, order: int) -> None:
        self.config, self.network, self.part = config, network, part
        self.replicate, self.order, self.drops_out = replicate, order, _drops_out(network)

    def epoch(self, epoch: int, first: int) -> Iterator[Update]:
        iteration = epoch * (len(self.part) // self.config.batch_size) + first
        which = {"replicate": self.replicate, "order": self.order, "epoch": epoch}
        for images, labels in training_batches(self.config, self.part, **which, first=first):

            def update(images: Tensor = images, labels: Tensor = labels, iteration: int = iteration) -> None:
                with self.dropout(iteration):
                    self.network.update(images, labels, learning_rate(self.config, iteration))

            yield update
            iteration += 1

    def dropout(self, iteration: int) -> AbstractContextManager[None]:
        if not self.drops_out:
            return nullcontext()
        return dropout_stream(self.replicate, self.order, iteration, rank_and_count()[0], self.part.device)


class DrawnBatches:
    """The batches of an epoch, chosen and augmented on the device by what was drawn ahead for all of it: tensors of
    fixed places, so that choosing can be part of a CUDA graph."""

    def __init__(self, config: Config, part: Split, replicate: int, order: int) -> None:
        self.config, self.part = config, part
        self.replicate, self.order = replicate, order
        self.visited = torch.arange(len(part), device=part.device)
        self.augment = self._drawn(0)
        self.places = torch.arange(config.batch_size, device=part.device)

    def draw(self, epoch: int) -> None:
        """Be those of an epoch from here on."""
        self.visited.copy_(epoch_order(self.replicate, self.order, epoch, len(self.part)))
        if self.augment is not None:
            for name, drawn in vars(self._drawn(epoch)).items():
                if isinstance(drawn, Tensor):
                    vars(self.augment)[name].copy_(drawn)

    def batch(self, iteration: Tensor) -> Batch:
        """That of an iteration (int64 [1]) of the epoch."""
        size = len(self.places)
        chosen = self.visited.index_select(0, iteration % (len(self.visited) // size) * size + self.places)
        images = self.part.images.index_select(0, chosen)
        if self.augment is not None:
            images = self.augment(images, chosen)
        return images, self.part.labels.index_select(0, chosen)

    def _drawn(self, epoch: int) -> Augmentation | None:
        which = {"replicate": self.replicate, "order": self.order, "epoch": epoch}
        return augmentation(self.config, **which, examples=len(self.part), device=self.part.device)


class RecordedSteps:
    """Updates replayed from a CUDA graph. What an update needs is on the GPU before: the order of the epoch and its
    augmentation, the learning rates, the number of the iteration. Where the training is long enough to make up for
    it, the network is compiled, which fuses what lies between its convolutions."""

    def __init__(self, config: Config, network: FlatNetwork, batches: DrawnBatches, compiled: bool) -> None:
        self.config, self.network, self.batches = config, network, batches
        self.loss, self.batch = network.loss, batches.batch
        if compiled:
            check_compiler()
            self.loss, self.batch = torch.compile(network.loss), torch.compile(batches.batch)
        device = batches.part.device
        self.rates = torch.tensor([learning_rate(config, i) for i in range(config.iterations)], device=device)
        self.iteration = torch.zeros(1, dtype=torch.int64, device=device)
        self.graph = recorded(self.update)

    def epoch(self, epoch: int, first: int) -> Iterator[Update]:
        whole = len(self.batches.part) // self.config.batch_size
        self.batches.draw(epoch)
        self.iteration.fill_(epoch * whole + first)
        for number in range(first, whole):
            if number % AHEAD == 0:
                _wait_for_gpu()
            yield self.graph.replay

    def update(self) -> None:
        """The update of which the graph is made."""
        rate = self.rates.index_select(0, self.iteration % len(self.rates)).squeeze(0)
        self.network.update(*self.batch(self.iteration), rate, self.loss)
        self.iteration += 1


def recorded(update: Update) -> torch.cuda.CUDAGraph:
    """An update as a graph. Recording is for one thread at a time; what others start meanwhile is not recorded. Nor may
    they draw weights: the compiler takes torch's random numbers back to where they were when it began. A thread records
    on its own stream: new ones are soon streams of other threads, since torch hands out the same few in turn."""
    with _recording, drawing:
        stream = torch.cuda.current_stream()
        if stream == torch.cuda.default_stream():  # on which nothing can be recorded
            stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                update()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            update()
    return graph


def check_compiler() -> None:
    """Compiling a network for a GPU takes a C compiler; its absence is told here, where the reason can be."""
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        raise ConfigError(
            f"no C compiler is found (cc, gcc, clang, or what CC names), and networks that are trained on a GPU for "
            f"{WORTH_COMPILING:,} iterations or more are compiled; install one, for example the package gcc"
        )


def _wait_for_gpu() -> None:
    """Wait until this thread's stream is done, without keeping a core of the processor busy."""
    event = torch.cuda.Event(blocking=True)
    event.record()
    event.synchronize()
