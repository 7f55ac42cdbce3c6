"""A study through everything that happens to one: asked for more, killed, damaged, out of disk or time, in company.

Whatever came before, the next call ends with the bits of an undisturbed run and does no training twice; reading writes
nothing; and a fault is named. `test_faults` strikes studies from outside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from project import ROOT
from studies import flip_a_bit

from lth_study import MissingRecords, Stopped, StoreError, preset, run
from lth_study.data.parts import Dataset
from lth_study.extents import Study
from lth_study.files import write_atomic
from lth_study.records import export_store
from lth_study.store import TrainingFolder
from lth_study.training.updates import FlatNetwork

SMALL = (
    preset("lenet_300_100", profile="smoke")
    .only("stability")
    .updated(iterations=6, rewinds=(0,), levels=1, orders=1, methods=("imp",), barriers=False)
)
ALL = SMALL.updated(rewinds=(0, 2), levels=2, orders=2, methods=("imp", "random_pruning"))
WISHES = ("rewinds", "levels", "orders", "methods")
UPDATES, FILES = 13, 11
"""Fewer updates and fewer files than there are left, whichever part of `ALL` has not been asked for."""
KINDS = ("end.safetensors", "mask.safetensors", "iteration_2.safetensors", "checkpoint.safetensors", "result.json",
         "distances.json", "images.json", "config.json")  # fmt: skip
"""Every kind of file in a store."""


@cache
def undisturbed() -> tuple[Path, pd.DataFrame]:
    """Everything that the machine may ask for, trained at once by one process."""
    store, asked = Path(tempfile.mkdtemp()), {name: getattr(ALL.extent, name) for name in WISHES}
    shallow = SMALL.updated(**asked | {"levels": 1})
    everything = Study(ALL.setting, {"all": ALL.extent, "at level 1": shallow.extent})
    return store, run(everything, store=store, workers=1)


def weights(store: Path) -> dict[str, bytes]:
    """The finished files of tensors: path in the store -> contents."""
    return {
        str(file.relative_to(store)): file.read_bytes()
        for file in sorted(store.glob("*/replicate_*/**/*.safetensors"))
        if file.stem != "checkpoint" and "toward" not in str(file)
    }


def values(records: pd.DataFrame) -> pd.DataFrame:
    return records.drop(columns=["device", "finished"]).reset_index(drop=True)


def train(study: Study, folder: Path, **options: Any) -> pd.DataFrame:
    """Run a study in `store`, and add a line to `log` for each training that is finished."""
    finish = TrainingFolder.finish

    def finish_and_log(self: TrainingFolder, *arguments: Any) -> None:
        finish(self, *arguments)
        with (folder / "log").open("a") as log:
            log.write(f"{self.folder}\n")

    with patch.object(TrainingFolder, "finish", finish_and_log):
        return run(study, store=folder / "store", workers=1, **options)


class Killed(BaseException):
    """The process ends here, as under SIGKILL: nothing is saved on the way out. The last checkpoint is there."""


@contextmanager
def killed_after(updates: int) -> Iterator[None]:
    update, left = FlatNetwork.update, iter(range(updates))

    def counted(self: FlatNetwork, *arguments: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return update(self, *arguments)

    with patch.object(FlatNetwork, "update", counted), patch("lth_study.training.train.CHECKPOINT_SECONDS", 0.0):
        yield


@contextmanager
def full_after(files: int) -> Iterator[None]:
    left = iter(range(files))

    def counted(path: Path, content: bytes) -> None:
        if next(left, None) is None:
            raise StoreError(f"cannot write {path}: No space left on device")
        write_atomic(path, content)

    with patch("lth_study.files.write_atomic", counted):
        yield


class StudyUnderway(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.folder / "store"
        self.asked = SMALL
        self.damaged = Counter[str]()
        """The folder of a training -> how many of its files were damaged."""

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def run(self, **options: Any) -> pd.DataFrame:
        return train(self.asked, self.folder, **options)

    def done(self) -> Counter[str]:
        """The folder of a training -> how often it was finished."""
        return Counter((self.folder / "log").read_text().splitlines())

    def look(self) -> None:
        """Read the records, and export them elsewhere: the store stays as it is."""
        state = {file: file.stat().st_mtime_ns for file in self.store.rglob("*")}
        with suppress(MissingRecords):
            self.run(missing="error")
        export_store(self.store, self.folder / "exported")
        assert state == {file: file.stat().st_mtime_ns for file in self.store.rglob("*")}

    def check(self) -> None:
        """Ask again: everything is there, with the bits of an undisturbed run, and nothing was done twice."""
        self.look()
        records = self.run()
        expected, everything = weights(undisturbed()[0]), values(undisturbed()[1])
        assert weights(self.store).items() <= expected.items()
        shared = list(everything.columns.drop("value"))
        both = values(records).merge(everything, on=shared, suffixes=("", "_expected"))
        assert len(both) == len(records)
        assert both["value"].equals(both["value_expected"])
        done = self.done()
        assert set(done) == {str(file.parent) for file in self.store.rglob("result.json")}
        assert done <= Counter(set(done)) + self.damaged
        pd.testing.assert_frame_equal(self.run(missing="error"), records)
        self.look()

    @initialize()
    def begin(self) -> None:
        self.run()
        self.check()

    @rule(name=st.sampled_from(WISHES))
    def ask_for_more(self, name: str) -> None:
        self.asked = self.asked.updated(**{name: getattr(ALL.extent, name)})
        self.check()

    @precondition(lambda self: self.asked != ALL)
    @rule(updates=st.integers(0, UPDATES))
    def be_killed(self, updates: int) -> None:
        self.asked = ALL
        with killed_after(updates), pytest.raises(Killed):
            self.run()
        self.check()

    @precondition(lambda self: self.asked != ALL)
    @rule(files=st.integers(0, FILES))
    def fill_the_disk(self, files: int) -> None:
        self.asked = ALL
        with full_after(files), pytest.raises(StoreError, match="No space left on device"):
            self.run()
        self.check()

    @precondition(lambda self: self.asked != ALL)
    @rule(seconds=st.floats(0, 1))
    def run_out_of_time(self, seconds: float) -> None:
        self.asked = ALL
        with suppress(Stopped):  # unless it is done before
            self.run(seconds=seconds)
        self.check()

    @precondition(lambda self: self.asked != ALL)
    @rule()
    def meet_other_images(self) -> None:
        with patch.object(Dataset, "fingerprint", lambda _: "others"), pytest.raises(StoreError, match="others"):
            run(ALL, store=self.store, workers=1)
        self.check()

    @precondition(lambda self: self.asked != ALL)
    @rule()
    def have_company(self) -> None:
        self.asked, before = ALL, self.done()
        program = "import sys; from pathlib import Path; import test_study_machine as machine\n"
        program += "machine.train(machine.ALL, Path(sys.argv[1]))"
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        command = [sys.executable, "-c", program, str(self.folder)]
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as other:
            while self.done() == before and other.poll() is None:
                time.sleep(0.02)
            self.run()
        assert other.returncode == 0
        self.check()

    @precondition(lambda self: self.asked != ALL)
    @rule(kind=st.sampled_from(KINDS), which=st.floats(0, 0.999), where=st.floats(0, 0.999), bit=st.integers(0, 7))
    def have_a_bit_flipped(self, kind: str, which: float, where: float, bit: int) -> None:
        self.strike(kind, which, where, bit)
        self.check()

    def strike(self, kind: str, which: float, where: float, bit: int) -> bool:
        """Flip a bit of one file of a kind, and run. Whether anything needed the file."""
        self.asked = ALL
        if kind == "checkpoint.safetensors":
            with killed_after(4), pytest.raises(Killed):
                self.run()
        files = sorted(self.store.rglob(kind))
        if not files:
            return False
        file = files[int(which * len(files))]
        whole = file.read_bytes()
        flip_a_bit(file, where, bit)
        spoiled = file.read_bytes()
        self.damaged[str(file.parent)] += 1
        said = ""
        try:
            self.run()
        except StoreError as error:
            said = str(error)
        if said:
            assert f"{file} " in said
            assert "delete it and run again" in said
            file.unlink()
            self.run()
        if file.exists() and file.read_bytes() == spoiled:
            file.write_bytes(whole)
            return False
        return True


def test_missing_records_are_named_and_reading_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingRecords, match=r"2 of 2 trainings .*: replicate 1, dense;.*missing='train'"):
        run(SMALL, store=tmp_path / "store", missing="error")
    assert list(tmp_path.glob("store*")) == []


@pytest.mark.parametrize(
    ("event", "which"),
    [
        *(("ask_for_more", [name]) for name in WISHES),
        *(("be_killed", [updates]) for updates in (0, 7, UPDATES)),
        *(("fill_the_disk", [files]) for files in (0, 1, 2, 5, FILES)),
        *(("run_out_of_time", [seconds]) for seconds in (0.0, 0.05)),
        ("meet_other_images", []),
        ("have_company", []),
    ],
    ids=str,
)
def test_a_study_comes_through_every_event_alone(event: str, which: list[Any], images_read_once: None) -> None:
    """Whatever sequences are drawn below."""
    study = StudyUnderway()
    study.begin()
    getattr(study, event)(*which)
    study.teardown()


@pytest.mark.parametrize(
    ("kind", "which"), [("end.safetensors", 0.0), ("end.safetensors", 0.5), *((name, 0.0) for name in KINDS[2:])]
)
def test_damage_to_any_kind_of_file_is_noticed_where_the_file_is_needed(
    kind: str, which: float, images_read_once: None
) -> None:
    """Ends of the dense network and of level 1, and the first file of every other kind. Level 1's mask is computed."""
    study = StudyUnderway()
    study.begin()
    study.ask_for_more("rewinds")
    assert study.strike(kind, which, 0.5, 0)
    study.check()
    study.teardown()


TestStudyUnderway = StudyUnderway.TestCase
TestStudyUnderway.settings = settings(max_examples=2, stateful_step_count=5)
