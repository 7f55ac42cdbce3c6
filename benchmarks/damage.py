"""Files with a changed byte or cut short, of each kind that the project keeps, and torn downloads (`faults`)."""

from __future__ import annotations

import os
import random
import shutil
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from ground import DONE, NAMED, STOPPED, Child, Ground, Tally, ended, finished, interrupted, sentence, training_in

from lth_core import Mask, Ticket, iterative_magnitude_pruning
from lth_core.tickets import load_about, load_trained
from lth_study.files import Damaged, read_state
from lth_study.records import export_store
from lth_study.tickets import pack

UPDATES = 60
"""After which a store is taken that has files of every kind, and a checkpoint."""
DATA = {"mnist": "MNIST/raw/train-images-idx3-ubyte.gz", "cifar10": "cifar-10-python.tar.gz"}
"""Data set -> one of its archives."""


def spoil(file: Path, chance: random.Random) -> bytes:
    """Change a random byte, or cut the file at a random place. Returns what the file then holds."""
    content = bytearray(file.read_bytes())
    place = chance.randrange(len(content))
    if chance.random() < 0.5:
        content[place] ^= chance.randrange(1, 256)
    else:
        del content[place:]
    file.write_bytes(content)
    return bytes(content)


def in_store(pattern: str) -> Callable[[Ground, int, random.Random], Tally]:
    """Damage to a file of a run store. Where a message names the file, it is deleted, as the message says."""

    def strike(ground: Ground, rounds: int, chance: random.Random) -> Tally:
        tally, base = Tally(), ground.new()
        code, said = ended(ground.start(base, interrupted(UPDATES)))
        if code != STOPPED:
            raise RuntimeError(f"the study was not interrupted: {said}")
        for _ in range(rounds):
            store = ground.copy(base)
            before, file = finished(store), chance.choice(sorted(store.rglob(pattern)))
            where, whole = training_in(file.parent), file.read_bytes()
            spoiled = spoil(file, chance)
            tally.struck += 1
            code, said = ended(ground.start(store))
            if code == NAMED and str(file) in said:
                tally.named += 1
                file.unlink()
            elif code != DONE:
                tally.failures.append(f"{file.name}: status {code}, {said}")
            elif file.exists() and file.read_bytes() == spoiled and file.suffix == ".safetensors":
                try:  # nothing was made from it; whoever reads it will be told
                    read_state(file)
                except Damaged:
                    tally.named += 1
                    file.write_bytes(whole)
            ground.settle(store, tally, file.name, before - {where}, damaged=where)
            ground.remove(store)
        return tally

    return strike


def in_records(name: str) -> Callable[[Ground, int, random.Random], Tally]:
    """Damage to a file of exported records, before the same study is exported again.

    The message says to restore the file; exporting the study anew does so. What no message names must not matter.
    """

    def strike(ground: Ground, rounds: int, chance: random.Random) -> Tally:
        tally, base = Tally(), ground.new()
        export_store(ground.reference, base)
        whole = contents(base)
        for _ in range(rounds):
            folder = ground.new()
            shutil.copytree(base, folder)
            (file,) = folder.glob(f"*/{name}")
            spoil(file, chance)
            tally.struck += 1
            try:
                export_store(ground.reference, folder)
            except Exception as error:
                tally.named += sentence(error)
                if not sentence(error):
                    tally.failures.append(f"{name}: {error!r}")
                shutil.rmtree(folder)
                export_store(ground.reference, folder)
            if contents(folder) == whole:
                tally.recovered += 1
            else:
                tally.failures.append(f"{name}: a change that no message named")
            shutil.rmtree(folder)
        return tally

    return strike


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*") if file.name != ".lock"}


def in_ticket(ground: Ground, rounds: int, chance: random.Random) -> Tally:
    """Damage to a file of a packed ticket that loading reads."""
    tally = Tally()
    folder = pack(ground.study, ground.reference, ground.new(), trained=True)[0]
    whole, files = read(folder), sorted(file for file in folder.iterdir() if file.suffix != ".md")
    for _ in range(rounds):
        file = chance.choice(files)
        content = file.read_bytes()
        spoil(file, chance)
        tally.struck += 1
        try:
            same = read(folder) == whole
        except ValueError as error:
            same = True
            tally.named += str(folder) in str(error) and "\n" not in str(error)
            if str(folder) not in str(error) or "\n" in str(error):
                tally.failures.append(f"ticket: {error}")
        except Exception as error:
            same = False
            tally.failures.append(f"ticket: {error!r}")
        file.write_bytes(content)
        tally.recovered += same
        if not same:
            tally.failures.append(f"ticket: a change of {file.name} that no message named")
    return tally


def read(folder: Path) -> Any:
    """All that a ticket's files give, as plain values."""
    ticket = Ticket.load(folder)
    return plain([ticket.iteration, ticket.level, dict(ticket.mask), ticket.weights, load_trained(folder),
                  load_about(folder)])  # fmt: skip


def plain(state: Any) -> Any:
    """A state as plain values: of a tensor its bytes."""
    if isinstance(state, torch.Tensor):
        return str(state.dtype), tuple(state.shape), state.contiguous().numpy().tobytes()
    if isinstance(state, dict):
        return [(key, plain(value)) for key, value in state.items()]
    return [plain(value) for value in state] if isinstance(state, list | tuple) else state


def in_search(ground: Ground, rounds: int, chance: random.Random) -> Tally:
    """Damage to a level that a search of `lth_core` keeps. The message names the file and says what to do."""
    weights = {"a": torch.linspace(-1, 1, 300).view(20, 15), "b": torch.linspace(-2, 1, 100)}

    def train(ticket: Ticket, stop: int | None) -> tuple[dict[str, Any], float]:
        ended_with = {name: weight + torch.sin(100 * weight) / 10 for name, weight in ticket.weights.items()}
        ticket.mask.apply_(ended_with)
        return ended_with, float(sum(weight.sum() for weight in ended_with.values()))

    def search(folder: Path) -> Any:
        start = train, weights, Mask.ones(weights)
        return plain([tuple(level)[1:] for level in iterative_magnitude_pruning(*start, levels=3, saved=folder)])

    tally, base = Tally(), ground.new()
    whole = search(base)
    for _ in range(rounds):
        folder = ground.new()
        shutil.copytree(base, folder)
        file = chance.choice(sorted(folder.iterdir()))
        spoil(file, chance)
        tally.struck += 1
        for _ in range(2):
            try:
                same = search(folder) == whole
                break
            except Exception as error:  # of whatever kind: one that does not help is a failure
                same = False
                clear = isinstance(error, ValueError) and str(file) in str(error) and "download it again" in str(error)
                tally.named += clear
                if not clear:
                    tally.failures.append(f"search: {error!r}")
                file.unlink(missing_ok=True)
        tally.recovered += same
        if not same:
            tally.failures.append(f"search: {file.name}")
        shutil.rmtree(folder)
    return tally


def torn_downloads(ground: Ground, rounds: int, chance: random.Random) -> Tally:
    """A download that breaks off or ends early, or an archive that was left half copied. Nothing of it may stay."""
    import torchvision.datasets  # noqa: F401 - once, before the forks

    tally = Tally()
    for _ in range(rounds):
        root, name = ground.new(), chance.choice(sorted(DATA))
        given = {}
        if chance.random() < 0.5:
            given = {root / DATA[name]: chance.randbytes(chance.randrange(2**20))}
        for archive, content in given.items():
            archive.parent.mkdir(parents=True)
            archive.write_bytes(content)
        work = partial(load_torn, ground.load, name, root, chance.randrange(2**20), chance.random() < 0.5)
        code, said = ended(Child(work, ground.log(root)))
        tally.struck += 1
        tally.named += code == NAMED
        if code != NAMED:
            tally.failures.append(f"download: status {code}, {said}")
        left = {file for file in root.rglob("*") if file.is_file()} - set(given)
        tally.recovered += not left
        if left:
            tally.failures.append(f"download: it left {left}")
        shutil.rmtree(root, ignore_errors=True)
    return tally


class Torn:
    """A response that gives so many bytes, and then ends or breaks off."""

    def __init__(self, size: int, breaks: bool) -> None:
        self.left, self.breaks = size, breaks
        self.headers, self.length = {"Content-Length": str(2**24)}, 2**24

    def __enter__(self) -> Torn:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def read(self, count: int = 2**16) -> bytes:
        given = min(count, self.left)
        self.left -= given
        if not given and self.breaks:
            raise IncompleteRead(b"")
        return bytes(given)


def load_torn(load: Callable[[str], object], name: str, root: Path, size: int, breaks: bool) -> None:
    os.environ["LTH_DATA"] = str(root)
    with patch.object(urllib.request, "urlopen", lambda *_, **__: Torn(size, breaks)):
        load(name)


KINDS: dict[str, Callable[[Ground, int, random.Random], Tally]] = {
    "end of a training": in_store("end.safetensors"),
    "mask": in_store("mask.safetensors"),
    "W_k": in_store("iteration_*.safetensors"),
    "checkpoint": in_store("checkpoint.safetensors"),
    "result": in_store("result.json"),
    "distances": in_store("distances.json"),
    "barriers": in_store("barriers.json"),
    "setting": in_store("config.json"),
    "images' fingerprint": in_store("images.json"),
    "ticket": in_ticket,
    "level of a search": in_search,
    "records": in_records("records.csv"),
    "provenance": in_records("provenance.csv"),
    "setting of records": in_records("config.json"),
}
"""Kind of file -> what damages it."""
