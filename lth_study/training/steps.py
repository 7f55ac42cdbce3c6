"""The updates of a training, epoch by epoch, for `train`: one by one, or on a GPU replayed from a CUDA graph.

On a GPU, an update of a small network is hundreds of kernels of a few microseconds each. The processor takes longer to
start them than the GPU to run them. A CUDA graph records the whole update once and starts it as one: choice of the
batch, crops, forward, backward, optimiser, learning rate. `updates` does the update.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from lth_study.data.augmentation import Augmentation, augmentation
from lth_study.data.parts import Batch, Part, Split
from lth_study.ranks import rank_and_count
from lth_study.seeds import drawing, dropout_stream, epoch_order
from lth_study.settings import Setting, SettingError
from lth_study.training.updates import FlatNetwork, learning_rate

Update = Callable[[], object]
"""Does the next update of a training."""

WARM_UP = 3
"""Updates before the recording. In these, libraries choose their algorithms and allocate their memory."""
WORTH_COMPILING = 2_000
"""Compile the network of a training of at least so many iterations. Compiling takes most of a minute."""
AHEAD = 16
"""Updates that the processor starts before it waits for the GPU. Fewer leave the GPU idle; more delay a stop."""
_recording = threading.Lock()


def steps(
    setting: Setting, network: FlatNetwork, part: Part, *, replicate: int, order: int
) -> PlainSteps | RecordedSteps:
    """The updates of a network in one data order of a replicate: recorded where possible, else one by one.

    `epoch` gives the updates of an epoch, from batch `first` on: call each once, in order. Recording overwrites the
    network's weights: load them afterwards.
    """
    if isinstance(part, Split) and can_be_recorded(network, part):
        compiled = setting.iterations >= WORTH_COMPILING
        return RecordedSteps(setting, network, DrawnBatches(setting, part, replicate, order), compiled)
    return PlainSteps(setting, network, part, replicate, order)


def can_be_recorded(network: FlatNetwork, part: Split) -> bool:
    """Whether an update can be a CUDA graph. The images must be in a GPU's memory, the process must train alone, and
    the network must have no dropout."""
    return part.device.type == "cuda" and rank_and_count()[1] == 1 and not _drops_out(network)


def _drops_out(network: FlatNetwork) -> bool:
    return any(isinstance(module, nn.Dropout) for module in network.model.modules())


class PlainSteps:
    """Updates one by one."""

    def __init__(self, setting: Setting, network: FlatNetwork, part: Part, replicate: int, order: int) -> None:
        self.setting, self.network, self.part = setting, network, part
        self.replicate, self.order, self.drops_out = replicate, order, _drops_out(network)

    def epoch(self, epoch: int, first: int) -> Iterator[Update]:
        iteration = epoch * (len(self.part) // self.setting.batch_size) + first
        which = {"replicate": self.replicate, "order": self.order, "epoch": epoch}
        for images, labels in training_batches(self.setting, self.part, **which, first=first):

            def update(images: Tensor = images, labels: Tensor = labels, iteration: int = iteration) -> None:
                with self.dropout(iteration):
                    self.network.update(images, labels, learning_rate(self.setting, iteration))

            yield update
            iteration += 1

    def dropout(self, iteration: int) -> AbstractContextManager[None]:
        if not self.drops_out:
            return nullcontext()
        return dropout_stream(self.replicate, self.order, iteration, rank_and_count()[0], self.part.device)


def training_batches(
    setting: Setting, part: Part, *, replicate: int, order: int, epoch: int, first: int = 0
) -> Iterator[Batch]:
    """The augmented batches of an epoch, from batch `first` on, in one data order of a replicate.

    They depend on these arguments alone, not on earlier draws. If several processes train one network, each gets its
    share of every batch. Examples after the last whole batch are not used in this epoch.
    """
    visited = epoch_order(replicate, order, epoch, len(part)).to(part.chosen_on)
    drawn = {"replicate": replicate, "order": order, "epoch": epoch, "examples": len(part)}
    augment = augmentation(setting, **drawn, device=part.chosen_on)
    rank, count = rank_and_count()
    whole = len(part) // setting.batch_size
    return part.batches((batch[rank::count] for batch in visited.split(setting.batch_size)[first:whole]), augment)


class DrawnBatches:
    """The batches of an epoch, chosen and augmented on the device. Their order and augmentation are drawn ahead for the
    whole epoch, into tensors at fixed addresses: a CUDA graph needs these."""

    def __init__(self, setting: Setting, part: Split, replicate: int, order: int) -> None:
        self.setting, self.part = setting, part
        self.replicate, self.order = replicate, order
        self.visited = torch.arange(len(part), device=part.device)
        self.augment = self._drawn(0)
        self.places = torch.arange(setting.batch_size, device=part.device)

    def draw(self, epoch: int) -> None:
        """Draw the order and the augmentation of an epoch."""
        self.visited.copy_(epoch_order(self.replicate, self.order, epoch, len(self.part)))
        if self.augment is not None:
            for name, drawn in vars(self._drawn(epoch)).items():
                if isinstance(drawn, Tensor):
                    vars(self.augment)[name].copy_(drawn)

    def batch(self, iteration: Tensor) -> Batch:
        """The batch of an iteration (int64 [1]); iterations of all epochs are counted in one sequence."""
        size = len(self.places)
        chosen = self.visited.index_select(0, iteration % (len(self.visited) // size) * size + self.places)
        images = self.part.images.index_select(0, chosen)
        if self.augment is not None:
            images = self.augment(images, chosen)
        return images, self.part.labels.index_select(0, chosen)

    def _drawn(self, epoch: int) -> Augmentation | None:
        which = {"replicate": self.replicate, "order": self.order, "epoch": epoch}
        return augmentation(self.setting, **which, examples=len(self.part), device=self.part.device)


class RecordedSteps:
    """Updates replayed from a CUDA graph. The GPU already holds all that an update needs: the order and augmentation of
    the epoch, the learning rates, the iteration. If `compiled`, `torch.compile` fuses operations between convolutions;
    that pays in long trainings."""

    def __init__(self, setting: Setting, network: FlatNetwork, batches: DrawnBatches, compiled: bool) -> None:
        self.setting, self.network, self.batches = setting, network, batches
        self.loss, self.batch = network.loss, batches.batch
        if compiled:
            check_compiler()
            self.loss, self.batch = torch.compile(network.loss), torch.compile(batches.batch)
        device = batches.part.device
        self.rates = torch.tensor([learning_rate(setting, i) for i in range(setting.iterations)], device=device)
        self.iteration = torch.zeros(1, dtype=torch.int64, device=device)
        self.graph = recorded(self.update)

    def epoch(self, epoch: int, first: int) -> Iterator[Update]:
        whole = len(self.batches.part) // self.setting.batch_size
        self.batches.draw(epoch)
        self.iteration.fill_(epoch * whole + first)
        for number in range(first, whole):
            if number % AHEAD == 0:
                _wait_for_gpu()
            yield self.graph.replay

    def update(self) -> None:
        """The update that the graph records."""
        rate = self.rates.index_select(0, self.iteration.clamp(max=len(self.rates) - 1)).squeeze(0)
        self.network.update(*self.batch(self.iteration), rate, self.loss)
        self.iteration += 1


def recorded(update: Update) -> torch.cuda.CUDAGraph:
    """Record an update as a graph. One thread records at a time; the graph omits what other threads start. No thread
    may draw weights meanwhile: `torch.compile` restores the global random state. A thread records on its current
    stream. Torch hands out a few streams in turn, so a new one may belong to another thread."""
    with _recording, drawing:
        stream = torch.cuda.current_stream()
        if stream == torch.cuda.default_stream():  # CUDA cannot record on the default stream
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
    """Raise `SettingError`, with the reason, if there is no C compiler: `torch.compile` needs one."""
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        raise SettingError(
            f"no C compiler is found (cc, gcc, clang, or the one that CC names). On a GPU, networks trained for "
            f"{WORTH_COMPILING:,} iterations or more are compiled; install a compiler, for example the package gcc"
        )


def _wait_for_gpu() -> None:
    """Wait until this thread's stream is done. The blocking event lets the processor's core sleep meanwhile."""
    event = torch.cuda.Event(blocking=True)
    event.record()
    event.synchronize()
