"""What a run shows of its progress: a bar, a line for each step, or nothing.

A bar is drawn in terminals and notebooks. Where a file would keep its carriage returns, lines take its place.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, Literal, Self

from tqdm import tqdm

from lth_study.measure import measured, summary
from lth_study.plan import Barrier
from lth_study.store import StudyStore, Training

Style = Literal["bar", "lines"] | None


class _Output:
    """An output of a notebook's cell that holds what was written last. A stream would keep every state of a bar."""

    def __init__(self) -> None:
        self.handle: Any = None

    def write(self, text: str) -> None:
        from IPython.display import display

        if shown := text.strip():
            if self.handle is None:
                self.handle = display({}, raw=True, display_id=True)
            self.handle.update({"text/plain": shown}, raw=True)

    def flush(self) -> None:
        """Nothing waits."""


class Progress:
    """Shows how many of the wanted trainings and barriers are done, by any process."""

    def __init__(self, store: StudyStore, wanted: Sequence[Training | Barrier], style: Style) -> None:
        self.store = store
        self.waiting = [step for step in wanted if not self.done(step)]
        self.total = len(wanted)
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        file = _Output() if hasattr(shell, "kernel") else sys.stderr
        self.style: Style = "lines" if style == "bar" and file is sys.stderr and not file.isatty() else style
        self.next = 0.0
        done = self.total - len(self.waiting)
        off = self.style != "bar"
        self.bar = tqdm(total=self.total, initial=done, unit="step", disable=off, smoothing=0.1, file=file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.next = 0.0
        self.update()
        self.bar.close()

    def done(self, step: Training | Barrier) -> bool:
        if isinstance(step, Barrier):
            return measured(self.store, step)
        return self.store.saves(step).complete

    def summary(self, step: Training | Barrier) -> str:
        return summary(self.store, step) if isinstance(step, Barrier) else self.store.summary(step)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.style is not None:
            self.bar.write(text)

    def update(self) -> None:
        """Count what is done and show it, at most once a second."""
        if self.style is None or time.monotonic() < self.next:
            return
        self.next = time.monotonic() + 1
        finished = [step for step in self.waiting if self.done(step)]
        self.waiting = [step for step in self.waiting if step not in finished]
        self.bar.update(len(finished))
        if self.style == "lines":
            for position, step in enumerate(finished, self.total - len(self.waiting) - len(finished) + 1):
                print(f"[{position}/{self.total}] {self.summary(step)}", flush=True)
