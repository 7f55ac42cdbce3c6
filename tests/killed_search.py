"""Run by `test_levels`: a search in a folder, killed again and again, then compared with an undisturbed one.

Its argument is an empty folder. Each attempt is a fork of this process. It is killed after a random time, or before or
after a call that writes a file.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lth_core import Mask, Ticket, iterative_magnitude_pruning, one_shot_pruning, states

LEVELS, END = 6, 9
MOMENTS = [(call, after) for call in ("open", "fsync", "replace") for after in (False, True)]
SEARCHES = [
    *[(procedure, rewind, "weight_rewinding") for procedure in ("iterative", "one_shot") for rewind in (0, 4)],
    ("iterative", 4, "learning_rate_rewinding"),
    ("iterative", 0, "fine_tuning"),
    ("one_shot", 4, "fine_tuning"),
]
log = Path(sys.argv[1]) / "log"
weights = {"a": torch.linspace(-1, 1, 300).view(20, 15), "b": torch.linspace(-2, 1, 100), "bias": torch.ones(3)}


def train(ticket: Ticket, stop: int | None) -> tuple[dict[str, Any], Any]:
    state = {"moments": {}, **ticket.weights}
    for iteration in range(ticket.iteration, END if stop is None else stop):
        for name in ticket.mask:
            step = torch.sin(torch.arange(state[name].numel()) * (iteration + 1.5)).view(state[name].shape)
            state["moments"][name] = state["moments"].get(name, 0) * 0.5 + step
            state[name].mul_(0.9).add_(state["moments"][name], alpha=0.1)
        ticket.mask.apply_({name: state[name] for name in ticket.mask})
        time.sleep(0.0005)
    if stop is None or stop > END:  # not on the way to W_k
        with open(log, "a") as file:
            file.write(f"{ticket.level}\n")
    return state, (ticket.level, {1: [None]})


def search(procedure: str, rewind: int, retrain: Any, saved: Path | None) -> list[Any]:
    asked: dict[str, Any] = {"rewind": rewind, "retrain": retrain, "iterations": END}
    start = train, weights, Mask.ones({name: weights[name] for name in "ab"})
    if procedure == "iterative":
        return list(iterative_magnitude_pruning(*start, levels=LEVELS - 1, saved=saved, **asked))
    return list(one_shot_pruning(*start, densities=(0.5, 0.9, 0.1, 0.3, 0.2), saved=saved, **asked))


def kept(folder: Path) -> set[int]:
    return {level for level in range(LEVELS) if (folder / f"level_{level:02d}.safetensors").exists()}


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(call: str, after: bool, number: int) -> None:
    """Die at the call of this number that writes a file."""
    function, seen = open if call == "open" else getattr(os, call), list[Any]()

    def killing(*given: Any, **named: Any) -> Any:
        seen.append(given)
        if len(seen) == number and not after:
            die()
        done = function(*given, **named)
        if len(seen) == number:
            die()
        return done

    setattr(states if call == "open" else os, call, killing)


def bits(state: Any) -> Any:
    """A state as plain values: of each tensor its type, shape and bytes."""
    if isinstance(state, torch.Tensor):
        return str(state.dtype), tuple(state.shape), state.contiguous().numpy().tobytes()
    if isinstance(state, dict):
        return [(key, bits(value)) for key, value in state.items()]
    return [bits(value) for value in state] if isinstance(state, list | tuple) else state


def attempt(asked: tuple[str, int, str], folder: Path, number: int) -> bool:
    """Whether the search of this attempt came to its end. No level that was kept may be trained."""
    before, child = kept(folder), os.fork()
    if child == 0:
        if number % 2:
            die_at(*MOMENTS[number // 2 % len(MOMENTS)], number=1 + number // 2 % 2)
        else:
            signal.signal(signal.SIGALRM, die)
            signal.setitimer(signal.ITIMER_REAL, random.Random(number).uniform(0.001, 0.02))
        search(*asked, folder)
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    trained = {int(level) for level in log.read_text().split()} if log.exists() else set()
    assert not before & trained, (before, trained)
    assert kept(folder) >= before
    assert kept(folder) - before <= trained
    log.unlink(missing_ok=True)
    return ended == 0


def levels(asked: tuple[str, int, str], folder: Path | None) -> Any:
    return bits([[dict(level.mask), level.rewound, level.trained, level.result] for level in search(*asked, folder)])


torch.set_num_threads(1)
for asked in SEARCHES:
    folder = log.with_name("-".join(map(str, asked)))
    undisturbed = levels(asked, None)
    log.unlink()
    attempts = next(number for number in range(500) if attempt(asked, folder, number))
    found = levels(asked, folder)
    assert not log.exists()  # all is there, so nothing was trained
    assert found == undisturbed, asked
    assert attempts >= LEVELS, (asked, attempts)
