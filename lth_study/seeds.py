"""Named random streams for training, networks, data and the worker; a replicate is a seed.

Each random choice draws from its own stream. A stream depends on its name and indices alone, never on earlier draws.
So a training resumed at iteration 40,000 sees the same data order as an uninterrupted one. No generator state is saved.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

CPU = torch.device("cpu")
PADDING = 4
"""Black pixels added at every edge of an image before it is cropped to its original size."""
drawing = threading.Lock()
"""A thread holds this while it draws from torch's global generators: all threads of the process share them."""


def stream(replicate: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator for one purpose of one replicate, e.g. `stream(1, "order", data_order, epoch)`."""
    key = ":".join([str(replicate), purpose, *map(str, indices)])
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little", signed=True)
    return torch.Generator().manual_seed(seed)


def epoch_order(replicate: int, order: int, epoch: int, examples: int) -> torch.Tensor:
    """The permutation (int64, shape [examples]) in which data order `order` visits the examples of an epoch."""
    return torch.randperm(examples, generator=stream(replicate, "order", order, epoch))


def epoch_augmentation(replicate: int, order: int, epoch: int, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The augmentation of each example of an epoch: shifts (int64, [examples, 2], 0 to 8) and flips (bool)."""
    generator = stream(replicate, "augment", order, epoch)
    shifts = torch.randint(0, 2 * PADDING + 1, (examples, 2), generator=generator)
    return shifts, torch.rand(examples, generator=generator) < 0.5


def epoch_crops(replicate: int, order: int, epoch: int, examples: int) -> torch.Tensor:
    """The draws for each example's crop and flip in an epoch: uniform in [0, 1) (float32, [examples, 5])."""
    return torch.rand(examples, 5, generator=stream(replicate, "crop", order, epoch))


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's global generators, of the processor and of a GPU; restore them on exit. Only one thread at a time
    can enter, since all threads share these generators."""
    with drawing, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def dropout_stream(
    replicate: int, order: int, iteration: int, rank: int = 0, device: torch.device = CPU
) -> AbstractContextManager[None]:
    """Seed dropout for one iteration, in a context as `seeded` gives.

    If several processes train one network, each rank drops other units in its share of the batch.
    """
    indices = [order, iteration, rank] if rank else [order, iteration]
    return seeded(stream(replicate, "dropout", *indices).initial_seed(), device)
