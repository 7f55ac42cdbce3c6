"""Several networks at once on one GPU: each is trained by a thread, on a stream of its own.

A small network leaves most of a GPU idle; kernels of different streams run beside each other. The threads do nothing
but start CUDA graphs, so that Python's lock does not hold them up.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from lth_study.plan import Barrier
from lth_study.store import Training
from lth_study.training import Stopped
from lth_study.training.train import steady_arithmetic
from lth_study.worker import Worker

POLL_SECONDS = 0.2


def complete_side_by_side(
    worker: Worker, absent: Collection[Training], barriers: Collection[Barrier], count: int
) -> None:
    """Do these trainings and measure these barriers on a GPU, up to `count` of them at once.

    Raises what the first of the threads raised, after the others have stopped with their checkpoints saved.
    """
    stop, device = threading.Event(), worker.data.train.device
    member = copy.copy(worker)
    member.stop_requested = stop.is_set

    def complete() -> None:
        with torch.cuda.stream(torch.cuda.Stream(device)):
            member.complete(absent, barriers)

    torch.cuda.synchronize(device)  # the images are on their way yet, and other streams would not wait for them
    # what this sets is the process's: it must stay until the last thread is done
    with steady_arithmetic(worker.config.precision), ThreadPoolExecutor(count) as pool:
        members = [pool.submit(complete) for _ in range(count)]
        try:
            while wait(members, POLL_SECONDS).not_done:
                if worker.stop_requested() or any(each.done() and each.exception() for each in members):
                    stop.set()
        finally:
            stop.set()
    raised = [error for error in (each.exception() for each in members) if error is not None]
    for error in sorted(raised, key=lambda error: isinstance(error, Stopped)):
        raise error
