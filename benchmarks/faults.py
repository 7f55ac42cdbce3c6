"""A campaign of faults: what happens to studies that are killed, cut short of disk or memory, damaged, or asked for
nonsense. It writes results/faults.csv, one row a kind of fault, in place of that kind's earlier row.

Every fault strikes a small study in a process of its own. The study is then run again, as a user would, and compared
with one that nothing disturbed. A row counts the faults: those that `struck`; those after which the study `recovered`
with the same bits; those that a message `named` in one sentence; finished trainings that were `lost`, and finished ones
that were trained `twice`. All others are `failures`, and the program then ends with status 1.

The faults follow from a seed. When a signal arrives does not: it follows from the machine's speed, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import damage
import fuzz
import pandas as pd
import torch
from ground import DONE, NAMED, STOPPED, Ground, Step, Tally, before_update, ended, finished, interrupted

from lth_study import __version__
from lth_study.devices import device_name
from lth_study.files import write_atomic
from lth_study.records import results_folder


def signals(ground: Ground, rounds: int, chance: random.Random, number: signal.Signals) -> Tally:
    """A signal at a random moment, again and again in one store until the study is done there."""
    tally = Tally()
    while tally.struck < rounds:
        store, hits = ground.new(), 0
        while tally.struck + hits < rounds:
            child, before = ground.start(store), finished(store)
            time.sleep(chance.uniform(0, ground.seconds))
            with suppress(ProcessLookupError):
                os.kill(child.process, number)
            code, said = ended(child)
            hits += code != DONE
            tally.lost += len(before - finished(store))
            if code == STOPPED:
                tally.named += "stopped with" in said and "\n" not in said
            elif code not in (DONE, -number):
                tally.failures.append(f"{number.name}: status {code}, {said}")
            if code == DONE:
                break
        tally.struck += hits
        settled = Tally()
        ground.settle(store, settled, number.name, finished(store))
        tally.recovered += hits * settled.recovered
        tally.lost, tally.twice = tally.lost + settled.lost, tally.twice + settled.twice
        tally.failures += settled.failures
        ground.remove(store)
    return tally


def full_disks(ground: Ground, rounds: int, chance: random.Random) -> Tally:
    """A file system that is smaller than the store; where none can be mounted, a limit on the size of a file."""
    tally = Tally()
    whole = sum(file.stat().st_size for file in ground.reference.rglob("*") if file.is_file())
    largest = max(file.stat().st_size for file in ground.reference.rglob("*") if file.is_file())
    for _ in range(rounds):
        with small_disk(ground.new()) as store:
            size = chance.randrange(20_000, whole) if store.mounted else chance.randrange(100, largest)
            store.limit(size)
            code, said = ended(ground.start(store.folder / "store", store.prepare))
            tally.struck += 1
            clear = code == NAMED and "cannot" in said
            tally.named += clear
            if code != DONE and not clear:
                tally.failures.append(f"full disk: status {code}, {said}")
            store.limit(10 * whole)
            ground.settle(store.folder / "store", tally, f"full disk of {size} bytes", finished(store.folder / "store"))
    return tally


class SmallDisk:
    """A folder for which there is little room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "faults", str(folder)]
        self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        self.size = 0

    def limit(self, size: int) -> None:
        self.size = size
        if self.mounted:
            subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)

    def prepare(self) -> None:
        """In the process that is to meet the limit."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(folder)
    try:
        yield disk
    finally:
        if disk.mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def set_back(ground: Ground, rounds: int, chance: random.Random) -> Tally:
    """The clock, by days, while a study is half done: files and results are then of the future."""
    tally = Tally()
    for _ in range(rounds):
        store, ahead = ground.new(), chance.uniform(1, 1e7)
        code, said = ended(ground.start(store, interrupted(chance.randrange(1, 40))))
        tally.struck += 1
        if code != STOPPED:
            tally.failures.append(f"clock: status {code}, {said}")
        for file in store.rglob("*"):
            os.utime(file, (time.time() + ahead, time.time() + ahead))
        ground.settle(store, tally, f"clock set back by {ahead:.0f} s", finished(store))
        ground.remove(store)
    return tally


def company(ground: Ground, rounds: int, chance: random.Random, processes: int) -> Tally:
    """Several processes on one store, of which one is killed in every second round."""
    tally = Tally()
    for number in range(rounds):
        store = ground.new()
        children = [ground.start(store) for _ in range(processes)]
        if number % 2:
            time.sleep(chance.uniform(0, ground.seconds))
            os.kill(children[0].process, signal.SIGKILL)
        codes = [ended(child) for child in children]
        tally.struck += 1
        for code, said in codes:
            if code not in (DONE, -signal.SIGKILL):
                tally.failures.append(f"{processes} processes: status {code}, {said}")
        ground.settle(store, tally, f"{processes} processes", finished(store))
        ground.remove(store)
    return tally


def out_of_memory(ground: Ground, rounds: int, chance: random.Random) -> Tally:
    """No memory: an allocation fails in a random update, or the process may not grow.

    Of the latter, a library that cannot report it may abort the process, as the system's own killer would.
    """
    tally = Tally()
    for number in range(rounds):
        store = ground.new()
        prepare = starved(chance.randrange(50)) if number % 2 else limited(chance.randrange(2**23))
        code, said = ended(ground.start(store, prepare))
        tally.struck += 1
        clear = code == NAMED and "memory" in said
        tally.named += clear
        if code not in (DONE, -signal.SIGABRT) and not clear:
            tally.failures.append(f"memory: status {code}, {said}")
        ground.settle(store, tally, "memory", finished(store))
        ground.remove(store)
    return tally


def starved(updates: int) -> Step:
    """Make an update of a process fail as torch does where memory is short."""
    return before_update(
        updates, RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    )


def limited(more: int) -> Step:
    """Let a process grow by so many bytes and no further."""

    def prepare() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

    return prepare


def main() -> None:
    """Strike, print, write."""
    kinds: dict[str, tuple[int, Callable[[Ground, int, random.Random], Tally]]] = {
        "SIGKILL": (200, lambda *where: signals(*where, signal.SIGKILL)),
        "SIGTERM": (50, lambda *where: signals(*where, signal.SIGTERM)),
        "full disk": (20, full_disks),
        "clock set back": (20, set_back),
        "two processes": (20, lambda *where: company(*where, 2)),
        "eight processes": (10, lambda *where: company(*where, 8)),
        "out of memory": (40, out_of_memory),
        **{f"damaged: {name}": (50, kind) for name, kind in damage.KINDS.items()},
        "torn download": (40, damage.torn_downloads),
        **{f"parameters: {name}": (count, kind) for name, (count, kind) in fuzz.KINDS.items()},
    }
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=float, default=1, help="the whole campaign so many times; 0.02 is 2%%")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--only", choices=kinds, action="append", help="this kind of fault. Repeat for more")
    arguments.add_argument("--output", type=Path, help="the table. Default: faults.csv in the results folder")
    chosen = arguments.parse_args()
    output = (chosen.output or results_folder() / "faults.csv").absolute()
    torch.set_num_threads(1)
    tables, failed = [pd.read_csv(output)] if output.exists() else [], False
    with tempfile.TemporaryDirectory(prefix="faults_") as folder:
        os.environ["LTH_RESULTS"], os.environ["LTH_DATA"] = f"{folder}/results", f"{folder}/data"
        ground = Ground(Path(folder))
        for name in chosen.only or kinds:
            count, strike = kinds[name]
            started = time.monotonic()
            tally = strike(ground, max(1, round(chosen.rounds * count)), random.Random(f"{chosen.seed} {name}"))
            found = row(name, tally, time.monotonic() - started, chosen.seed)
            print(" ".join(f"{key}={value}" for key, value in found.items() if key not in MADE), flush=True)
            for failure in tally.failures:
                print(f"  {failure}", flush=True)
            failed |= bool(tally.failures)
            table = pd.concat([*(each[each["fault"] != name] for each in tables), pd.DataFrame([found])])
            tables = [table.sort_values("fault", key=lambda names: names.map(list(kinds).index))]
            write_atomic(output, tables[0].to_csv(index=False).encode())  # a time limit may end it
    sys.exit(failed)


MADE = ("seed", "device", "lth_core", "torch", "python", "measured")


def row(name: str, tally: Tally, seconds: float, seed: int) -> dict[str, Any]:
    """A row of the table."""
    counts = {**vars(tally), "failures": len(tally.failures)}
    made = (seed, device_name(), __version__, torch.__version__, platform.python_version())
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"fault": name, **counts, "seconds": round(seconds, 1), **dict(zip(MADE, (*made, date), strict=True))}


if __name__ == "__main__":
    main()
