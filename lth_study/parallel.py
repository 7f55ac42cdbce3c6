"""Several networks at once: by processes on a processor, by threads on a GPU; and how all of them are stopped."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lth_study.plan import Barrier, Comparison, Distance
from lth_study.settings import Setting
from lth_study.store import StudyStore, Training
from lth_study.training import Stopped

if TYPE_CHECKING:
    from lth_study.trainings import Trainings


POLL_SECONDS = 0.2


@contextmanager
def helpers(
    store: StudyStore, absent: Sequence[Training], comparisons: Sequence[Comparison], rewinds: Collection[int]
) -> Iterator[Callable[[int], None]]:
    """Gives a function that starts a number of other processes.

    They do these trainings and comparisons too. On exit, all of them have saved their work and ended.
    """
    order = {
        "parent": os.getpid(),
        "store": str(store.store),
        "setting": store.setting.to_json(),
        "rewinds": list(rewinds),
        "absent": [asdict(training) for training in absent],
        "comparisons": [[type(comparison).__name__, asdict(comparison)] for comparison in comparisons],
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield lambda count: started.extend(_start({**order, "workers": 1 + count}) for _ in range(count))
    finally:
        for helper in started:
            helper.terminate()
        for helper in started:
            helper.wait()


def _start(order: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Another process that does the same, until nothing is left or this process ends."""
    path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    helper = subprocess.Popen(
        [sys.executable, "-m", "lth_study.parallel"],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )
    assert helper.stdin is not None
    with suppress(BrokenPipeError):  # one that has ended already is waited for like any other
        helper.stdin.write(json.dumps(order).encode())
        helper.stdin.close()
    return helper


def _help() -> None:
    """What a helper process does."""
    order = json.load(sys.stdin)  # first, for the process that started this one waits until it is read
    from lth_study.trainings import Trainings
    from lth_study.worker import Worker

    store = StudyStore(Path(order["store"]), Setting.from_json(order["setting"]))
    kinds = {kind.__name__: kind for kind in (Distance, Barrier)}
    with stop_signals() as stopping, suppress(Stopped):
        to_stop = lambda: stopping.is_set() or os.getppid() != order["parent"]  # noqa: E731
        worker = Worker(Trainings(store, order["rewinds"], to_stop, order["workers"]))
        comparisons = [
            kinds[name](found["kind"], Training(**found["a"]), Training(**found["b"]))
            for name, found in order["comparisons"]
        ]
        worker.complete([Training(**training) for training in order["absent"]], comparisons)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that training stops between two updates. A second Ctrl-C interrupts."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopping.set()

    previous = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def complete_side_by_side(
    trainings: Trainings, absent: Collection[Training], comparisons: Collection[Comparison], count: int
) -> None:
    """Do these trainings and comparisons on a GPU, up to `count` of them at once, each in a thread.

    A small network leaves most of a GPU idle. Each thread has a CUDA stream of its own, and kernels of different
    streams run beside each other. The threads only start CUDA graphs, so Python's lock does not hold them up. Raises
    what the first of the threads raised, after the others have stopped and saved their checkpoints.
    """
    import torch  # late, as in `_help`

    from lth_study.training.train import steady_arithmetic
    from lth_study.worker import Worker

    stop, device = threading.Event(), trainings.data.train.device
    same = copy.copy(trainings)  # the same images, but stopped by an event of its own
    same.stop_requested = stop.is_set
    member = Worker(same)

    def complete() -> None:
        with torch.cuda.stream(torch.cuda.Stream(device)):
            member.complete(absent, comparisons)

    torch.cuda.synchronize(device)  # the images are on their way yet, and other streams would not wait for them
    # what this sets is the process's: it must stay until the last thread is done
    with steady_arithmetic(trainings.setting.precision), ThreadPoolExecutor(count) as pool:
        members = [pool.submit(complete) for _ in range(count)]
        try:
            while wait(members, POLL_SECONDS).not_done:
                if trainings.stop_requested() or any(each.done() and each.exception() for each in members):
                    stop.set()
        finally:
            stop.set()
    raised = [error for error in (each.exception() for each in members) if error is not None]
    for error in sorted(raised, key=lambda error: isinstance(error, Stopped)):
        raise error


if __name__ == "__main__":
    _help()
