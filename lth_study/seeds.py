"""Named random streams. A replicate is a seed: each of its uses of chance draws from a stream of its own.

A stream is a function of its name and indices alone (never of what was drawn before), so a training resumed at
iteration 40,000 sees the same data order as one that was never interrupted, and no generator state is saved.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

CPU = torch.device("cpu")
PADDING = 4
"""Black pixels added at every edge of an image before a crop of its own size is taken."""
drawing = threading.Lock()
"""Held by the thread that draws from torch's own generators, which are the process's."""


def stream(replicate: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator for one purpose of one replicate, e.g. `stream(1, "order", data_order, epoch)`."""
    key = ":".join([str(replicate), purpose, *map(str, indices)])
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little", signed=True)
    return torch.Generator().manual_seed(seed)


def epoch_order(replicate: int, order: int, epoch: int, examples: int) -> torch.Tensor:
    """The permutation (int64, shape [examples]) in which data order `order` visits the examples of an epoch."""
    return torch.randperm(examples, generator=stream(replicate, "order", order, epoch))


def epoch_augmentation(replicate: int, order: int, epoch: int, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What augmentation does to each example of an epoch: shifts (int64, [examples, 2], 0 to 8) and flips (bool)."""
    generator = stream(replicate, "augment", order, epoch)
    shifts = torch.randint(0, 2 * PADDING + 1, (examples, 2), generator=generator)
    return shifts, torch.rand(examples, generator=generator) < 0.5


def epoch_crops(replicate: int, order: int, epoch: int, examples: int) -> torch.Tensor:
    """What decides about each example's crop in an epoch: uniform numbers (float32, [examples, 5])."""
    return torch.rand(examples, 5, generator=stream(replicate, "crop", order, epoch))


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Within it, torch's own random numbers, of the processor and of a device, follow from a seed; behind it, they are
    as before. All threads of a process share them, so it is for one thread at a time."""
    with drawing, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def dropout_stream(
    replicate: int, order: int, iteration: int, rank: int = 0, device: torch.device = CPU
) -> AbstractContextManager[None]:
    """Within it, the random numbers that dropout takes are those of one iteration.

    Processes that train one network together have ranks and drop out other units, each in its share of the batch.
    """
    indices = [order, iteration, rank] if rank else [order, iteration]
    return seeded(stream(replicate, "dropout", *indices).initial_seed(), device)
