"""Several networks at once on a processor: other processes that do the same trainings, and how all are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from lth_study.plan import Barrier
from lth_study.settings import Config
from lth_study.store import StudyStore, Training
from lth_study.training import Stopped


@contextmanager
def helpers(
    study: StudyStore, absent: Sequence[Training], barriers: Sequence[Barrier]
) -> Iterator[Callable[[int], None]]:
    """Gives a function that starts so many other processes, which do these trainings and measure these barriers too;
    behind it, they have saved what they did and ended."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield lambda count: started.extend(_start(study, absent, barriers, 1 + count) for _ in range(count))
    finally:
        for helper in started:
            helper.terminate()
        for helper in started:
            helper.wait()


def _start(
    study: StudyStore, absent: Sequence[Training], barriers: Sequence[Barrier], workers: int
) -> subprocess.Popen[bytes]:
    """Another process that does the same, until nothing is left or this process ends."""
    order = {
        "parent": os.getpid(),
        "store": str(study.store),
        "config": study.config.to_json(),
        "absent": [asdict(training) for training in absent],
        "barriers": [asdict(barrier) for barrier in barriers],
        "workers": workers,
    }
    path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    helper = subprocess.Popen(
        [sys.executable, "-m", "lth_study.helpers"],
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
    from lth_study.worker import Worker

    study = StudyStore(Path(order["store"]), Config.from_json(order["config"]))
    with stop_signals() as stopping, suppress(Stopped):
        worker = Worker(study, lambda: stopping.is_set() or os.getppid() != order["parent"], order["workers"])
        barriers = [Barrier(b["kind"], Training(**b["a"]), Training(**b["b"])) for b in order["barriers"]]
        worker.complete([Training(**training) for training in order["absent"]], barriers)


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


if __name__ == "__main__":
    _help()
