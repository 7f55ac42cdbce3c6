"""Several processes that `torchrun` starts train one network together, each on its share of every batch.

The runner joins them; `steps`, `updates` and `evaluation` share the work through torch.distributed. The first process,
rank 0, runs the study: it alone reads and writes the run store. It hands each training to the others; they only take
part in trainings. Gradients lie in one flat vector, so one call averages them; DistributedDataParallel is not used.
So each process keeps the mask and the optimiser that it has when it trains alone.
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

from lth_study.settings import SettingError

PATIENCE = timedelta(days=7)
"""How long the others wait for the first process; it may have to check a million images."""


def rank_and_count() -> tuple[int, int]:
    """This process's rank and the number of processes that train together; (0, 1) if it trains alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@contextmanager
def together(device: torch.device) -> Iterator[int]:
    """Join the processes that `torchrun` has started, and yield this one's rank.

    They use NCCL on GPUs and Gloo elsewhere. Signals reach all of them. Only the first decides to stop, so the others
    ignore signals. Raises `SettingError` if `torchrun` has not started them.
    """
    if absent := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise SettingError(
            f"WORLD_SIZE: {os.environ['WORLD_SIZE']} processes should train together, but {', '.join(absent)} is not "
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
    """Send the other processes a job, or the message that ends their work. Only the first process calls this."""
    if rank_and_count()[1] > 1:
        distributed.broadcast_object_list([job], src=0)


def receive() -> Any:
    """Wait for the first process's next `hand_out` and return its job."""
    received: list[Any] = [None]
    distributed.broadcast_object_list(received, src=0)
    return received[0]


def average_(tensor: Tensor) -> None:
    """Replace a tensor, in place, by its mean over all processes."""
    count = rank_and_count()[1]
    if count > 1:
        distributed.all_reduce(tensor)
        tensor /= count


def share_buffers(model: nn.Module) -> None:
    """Copy the first process's buffers, such as batch norm's running averages, to all others."""
    if rank_and_count()[1] > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)


def total(tensor: Tensor) -> Tensor:
    """Replace a tensor, in place, by its sum over all processes, and return it."""
    if rank_and_count()[1] > 1:
        distributed.all_reduce(tensor)
    return tensor


def agreed(decision: bool, device: torch.device) -> bool:
    """The first process's decision, sent to all processes; `device` is the training's."""
    if rank_and_count()[1] == 1:
        return decision
    decided = torch.tensor(decision, device=device, dtype=torch.uint8)
    distributed.broadcast(decided, src=0)
    return bool(decided)
