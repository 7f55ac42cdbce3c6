"""Several processes that train one network together, each on its share of every batch, as `torchrun` starts them.

The first process, of rank 0, does the study: it alone reads and writes the run store. Before it trains a network it
hands the training to the others, which do nothing else than to take part.

Gradients are averaged here and not by torch's DistributedDataParallel: they lie in one flat vector, so that one call
averages all of them, and each process keeps the mask and the optimiser that it has when it is alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lth_study.settings import ConfigError

PATIENCE = timedelta(days=7)
"""How long the others wait for the first process, which may have a million images to look through."""


def rank_and_count() -> tuple[int, int]:
    """This process's number among those that train together, and how many they are; (0, 1) when it is alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@contextmanager
def together(device: torch.device) -> Iterator[int]:
    """Join the processes that `torchrun` has started beside this one, and give this one's rank.

    They talk over NCCL where networks are trained on GPUs, over Gloo elsewhere. Signals reach all of them; to stop is
    for the first to decide, so the others wait for what it does. Raises `ConfigError` where nothing has started them.
    """
    if absent := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(
            f"WORLD_SIZE: {os.environ['WORLD_SIZE']} processes are to train together, but {', '.join(absent)} is not "
            "set; start them with torchrun, or unset WORLD_SIZE to train with one"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    rank = distributed.get_rank()
    if rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield rank
    finally:
        distributed.destroy_process_group()


def hand_out(job: Any) -> None:
    """Give the other processes something to do, or the last word. Only the first process calls this."""
    if rank_and_count()[1] > 1:
        distributed.broadcast_object_list([job], src=0)


def receive() -> Any:
    """What the first process hands out. Waits for it."""
    received: list[Any] = [None]
    distributed.broadcast_object_list(received, src=0)
    return received[0]


def average_(tensor: Tensor) -> None:
    """Put the mean over all processes in a tensor's place."""
    count = rank_and_count()[1]
    if count > 1:
        distributed.all_reduce(tensor)
        tensor /= count


def share_buffers(model: nn.Module) -> None:
    """Put the first process's buffers, such as the running averages of batch norm, in place of every other's."""
    if rank_and_count()[1] > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes; the tensor itself is changed."""
    if rank_and_count()[1] > 1:
        distributed.all_reduce(tensor)
    return tensor


def agreed(decision: bool, device: torch.device) -> bool:
    """The first process's decision, for all of them."""
    if rank_and_count()[1] == 1:
        return decision
    decided = torch.tensor(decision, device=device, dtype=torch.uint8)
    distributed.broadcast(decided, src=0)
    return bool(decided)
