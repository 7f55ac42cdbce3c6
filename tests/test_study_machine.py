"""A study through everything that happens to one: asked for more, killed, out of disk or time, with other images.

Whatever came before, the next call ends with the bits of an undisturbed run and trains nothing twice; reading writes
nothing; and a fault is named. `test_faults` strikes studies from outside, and damages what they have kept.
"""

from __future__ import annotations

import shutil
import tempfile
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

from lth_study import MissingRecords, Stopped, StoreError, preset, run
from lth_study.data.parts import Dataset
from lth_study.extents import Study
from lth_study.files import write_atomic
from lth_study.training.updates import FlatNetwork

SMALL = (
    preset("lenet_300_100", profile="smoke")
    .only("stability")
    .updated(iterations=6, rewinds=(0,), levels=1, orders=1, methods=("imp",), barriers=False)
)
ALL = SMALL.updated(rewinds=(0, 2), levels=2, orders=2)
UPDATES, FILES = 13, 11
"""Fewer updates and fewer files than there are left, whichever part of `ALL` has not been asked for."""


@cache
def undisturbed() -> tuple[Path, pd.DataFrame]:
    """Everything that the machine may ask for, trained at once by one process."""
    store, shallow = Path(tempfile.mkdtemp()), SMALL.updated(rewinds=ALL.extent.rewinds, orders=ALL.extent.orders)
    everything = Study(ALL.setting, {"all": ALL.extent, "orders at level 1": shallow.extent})
    return store, run(everything, store=store, workers=1)


def weights(store: Path) -> dict[str, bytes]:
    """The finished files of tensors: path in the store -> contents."""
    return {
        str(file.relative_to(store)): file.read_bytes()
        for file in sorted(store.glob("*/replicate_*/**/*.safetensors"))
        if file.stem != "checkpoint" and "toward" not in str(file)
    }


def finished(store: Path) -> dict[str, bytes]:
    """What finished trainings have recorded, with the seconds that each took: another training would show."""
    return {str(file.relative_to(store)): file.read_bytes() for file in store.glob("*/replicate_*/**/result.json")}


def values(records: pd.DataFrame) -> pd.DataFrame:
    return records.drop(columns=["device", "finished"]).reset_index(drop=True)


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

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def run(self, **options: Any) -> pd.DataFrame:
        return run(self.asked, store=self.store, workers=1, **options)

    def check(self) -> None:
        """Ask again: everything is there, with the bits of an undisturbed run, and asking trained and wrote nothing."""
        before = finished(self.store)
        records = self.run()
        assert before.items() <= finished(self.store).items()
        expected, everything = weights(undisturbed()[0]), values(undisturbed()[1])
        own = weights(self.store)
        assert own.items() <= expected.items()
        shared = list(everything.columns.drop("value"))
        both = values(records).merge(everything, on=shared, suffixes=("", "_expected"))
        assert len(both) == len(records)
        assert both["value"].equals(both["value_expected"])
        state = {file: file.stat().st_mtime_ns for file in self.store.rglob("*") if file.is_file()}
        pd.testing.assert_frame_equal(self.run(missing="error"), records)
        assert state == {file: file.stat().st_mtime_ns for file in self.store.rglob("*") if file.is_file()}

    @initialize()
    def begin(self) -> None:
        self.check()

    @rule(name=st.sampled_from(["rewinds", "levels", "orders"]))
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


def test_missing_records_are_named_and_reading_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingRecords, match=r"2 of 2 trainings .*: replicate 1, dense;.*missing='train'"):
        run(SMALL, store=tmp_path / "store", missing="error")
    assert list(tmp_path.glob("store*")) == []


@pytest.mark.parametrize(
    ("event", "which"),
    [
        *(("ask_for_more", [name]) for name in ("rewinds", "levels", "orders")),
        *(("be_killed", [updates]) for updates in (0, 7, UPDATES)),
        *(("fill_the_disk", [files]) for files in (0, 1, 2, 5, FILES)),
        *(("run_out_of_time", [seconds]) for seconds in (0.0, 0.05)),
        ("meet_other_images", []),
    ],
    ids=str,
)
def test_a_study_comes_through_every_event_alone(event: str, which: list[Any], images_read_once: None) -> None:
    """Whatever sequences are drawn below."""
    study = StudyUnderway()
    study.begin()
    getattr(study, event)(*which)
    study.teardown()


TestStudyUnderway = StudyUnderway.TestCase
TestStudyUnderway.settings = settings(max_examples=2, stateful_step_count=5)
