"""A small study that faults strike in processes of their own, and its comparison with one that nothing disturbed."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lth_study import Stopped, data, preset, run
from lth_study.extents import Study
from lth_study.files import read_json
from lth_study.store import TrainingFolder
from lth_study.training import train
from lth_study.training.updates import FlatNetwork

STUDY = (
    preset("lenet_300_100", profile="smoke")
    .only("stability")
    .updated(iterations=6, rewinds=(0, 2), levels=2, orders=2, methods=("imp", "random_pruning"))
)
"""Trainings of two chains with controls, repetitions, distances and barriers: one or two seconds in all."""
DONE, OTHER, NAMED, STOPPED = 0, 1, 2, 3
"""How a process ends. NAMED: with an error of this project, in one sentence."""
CHECKPOINT_SECONDS = 0.02
PATIENCE = 300.0
"""Seconds after which a process that does not end counts as a failure."""

Step = Callable[[], None]


def nothing() -> None:
    """Prepare nothing."""


@dataclass
class Tally:
    """What a kind of fault did."""

    struck: int = 0
    recovered: int = 0
    named: int = 0
    lost: int = 0
    twice: int = 0
    failures: list[str] = field(default_factory=list)


class Ground:
    """A folder of stores and the study that nothing disturbed, to compare with."""

    def __init__(self, folder: Path, study: Study = STUDY) -> None:
        self.folder, self.study, self.count = folder, study, 0
        images = data.load("mnist_embedded")
        self.load = data.load
        patch.object(data, "load", lambda *_, **__: images).start()  # every process would read them again
        self.reference = self.new()
        started = time.monotonic()
        code, said = ended(self.start(self.reference))
        self.seconds = time.monotonic() - started
        if code != DONE:
            raise RuntimeError(f"the study fails undisturbed: {said}")
        self.expected = bits(self.reference)

    def new(self) -> Path:
        """A folder for another store."""
        self.count += 1
        return self.folder / f"store_{self.count}"

    def start(self, store: Path, prepare: Step = nothing, study: Study | None = None) -> Child:
        """Run the study in another process, after `prepare` there."""
        return Child(lambda: run(study or self.study, store=store, workers=1), self.log(store), prepare)

    def log(self, store: Path) -> Path:
        """The file with a line for each training that was finished in a store. It lies beside all stores."""
        return self.folder / f"{'_'.join(store.relative_to(self.folder).parts)}.log"

    def copy(self, store: Path) -> Path:
        """Another store with the same trainings."""
        shutil.copytree(store, other := self.new())
        shutil.copy(self.log(store), self.log(other))
        return other

    def remove(self, store: Path) -> None:
        shutil.rmtree(store, ignore_errors=True)
        self.log(store).unlink(missing_ok=True)

    def settle(self, store: Path, tally: Tally, what: str, before: set[str], damaged: str = "") -> None:
        """Run the study to its end and compare it with the undisturbed one.

        `before` are the trainings that were finished before the fault; `damaged` is the one that it was to damage.
        """
        code, said = ended(self.start(store))
        if code != DONE:
            tally.failures.append(f"{what}: it did not go on: {said}")
            return
        trained = Counter(self.log(store).read_text().split() if self.log(store).exists() else [])
        again = {name for name, count in trained.items() if count > 1 and name != damaged}
        lost = before - finished(store)
        tally.twice, tally.lost = tally.twice + len(again), tally.lost + len(lost)
        kept = bits(store)
        different = [name for name in differing(kept, self.expected) if name in kept or not needless(name)]
        if different or lost or again:
            tally.failures.append(f"{what}: other bits in {different}, lost {lost}, trained twice {again}")
        else:
            tally.recovered += 1


class Child:
    """A fork of this process that does some work, and says in a file how it ended."""

    def __init__(self, work: Callable[[], object], log: Path, prepare: Step = nothing) -> None:
        handle, name = tempfile.mkstemp(dir=log.parent, prefix="said_")
        os.close(handle)
        self.said = Path(name)
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            os._exit(self._do(work, log, prepare))

    def _do(self, work: Callable[[], object], log: Path, prepare: Step) -> int:
        """In the child: the exit status."""
        finish = TrainingFolder.finish

        def logged(folder: TrainingFolder, *arguments: Any) -> None:
            finish(folder, *arguments)
            with open(log, "a") as file:
                file.write(f"{training_in(folder.folder)}\n")

        TrainingFolder.finish = logged  # type: ignore[method-assign]
        train.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        try:
            prepare()
            work()
        except Stopped as stopped:
            self.said.write_text(str(stopped))
            return STOPPED
        except BaseException as error:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            named = sentence(error)
            self.said.write_text(str(error) if named else "".join(traceback.format_exception(error)[-4:]))
            return NAMED if named else OTHER
        return DONE


def sentence(error: BaseException) -> bool:
    """Whether an error is this project's own, in one line, as `lth` prints it."""
    return type(error).__module__.startswith(("lth_core.", "lth_study.")) and "\n" not in str(error).strip()


def ended(child: Child) -> tuple[int, str]:
    """Wait for a process: its exit status (negative: a signal) and its last words."""
    deadline = time.monotonic() + PATIENCE
    while (found := os.waitpid(child.process, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child.process, signal.SIGKILL)
        time.sleep(0.002)
    said = child.said.read_text()
    child.said.unlink()
    return os.waitstatus_to_exitcode(found[1]), said


def finished(store: Path) -> set[str]:
    """The finished trainings of a store."""
    return {training_in(file.parent) for file in store.glob("*/replicate_*/**/result.json")}


def training_in(folder: Path) -> str:
    """The training of a folder, whatever the store: "replicate_1/dense"."""
    return "replicate_" + str(folder).rpartition("/replicate_")[2]


def bits(store: Path) -> dict[str, Any]:
    """All that a store has kept, by the file's path: tensors as bytes; results without the time that they took."""
    kept: dict[str, Any] = {}
    for file in sorted(store.glob("*/replicate_*/**/*")):
        if file.suffix == ".safetensors" and file.stem != "checkpoint" and "toward" not in str(file):
            kept[str(file.relative_to(store))] = file.read_bytes()
        elif file.suffix == ".json":
            result = read_json(file)
            result.pop("provenance", None)
            kept[str(file.relative_to(store))] = result
    return kept


def needless(result: str) -> bool:
    """Whether no run computes a lost result again: a repetition's, since its distance is recorded in its place."""
    return "_again/" in result


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def interrupted(updates: int) -> Step:
    """Make a process stop after so many updates, with a checkpoint after each."""
    return before_update(updates, Stopped("interrupted"))


def before_update(updates: int, error: Exception) -> Step:
    """Make a process raise this error after so many updates."""

    def prepare() -> None:
        update, left = FlatNetwork.update, iter(range(updates))

        def counted(network: FlatNetwork, *arguments: Any) -> Any:
            if next(left, None) is None:
                raise error
            return update(network, *arguments)

        FlatNetwork.update = counted  # type: ignore[method-assign]
        train.CHECKPOINT_SECONDS = 0.0

    return prepare
