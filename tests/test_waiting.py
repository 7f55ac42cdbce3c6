"""A process that waits for another one says so, and takes its training over once that process is gone."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock._unix
import pytest
from studies import TINY, Done, states

from lth_study import StoreError, run
from lth_study.progress import Progress
from lth_study.store import Busy, StudyStore, Training, TrainingFolder, dense

PROGRAM = """
import sys, time
from pathlib import Path
from lth_study.store import TrainingFolder

with TrainingFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(100)
"""


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Another process, no child of this one, that holds a folder's lock: its number."""
    start = ["bash", "-c", '"$@" & echo $!; wait', "bash", sys.executable, "-c", PROGRAM, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True, env=environment) as shell:
        assert shell.stdout is not None
        process = int(shell.stdout.readline())
        assert shell.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.kill(process, 9)


def test_who_holds_a_lock_is_named_unless_it_is_this_process_or_a_helper_of_it(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    with held(tmp_path) as process, pytest.raises(Busy) as busy, folder.locked():
        pass
    assert busy.value.holder == f"process {process} on {platform.node()}"
    assert str(busy.value) == f"process {process} on {platform.node()} is at work in {tmp_path}"
    with folder.locked(), pytest.raises(Busy) as busy, folder.locked():
        pass
    assert busy.value.holder == ""
    (tmp_path / ".lock").write_text(f"1 {os.getpid()} {platform.node()}")  # a child's
    assert Busy(tmp_path).holder == ""
    (tmp_path / ".lock").write_text(f"{os.getpid()} 1 another-host")
    assert Busy(tmp_path).holder == f"process {os.getpid()} on another-host"
    (tmp_path / ".lock").write_text("")
    assert Busy(tmp_path).holder == "another process"


@pytest.mark.parametrize("training", [dense(1), Training(1, "imp", 5, 1, 1)], ids=str)
def test_a_waiting_run_names_the_process_and_takes_over_when_it_is_killed(
    training: Training,
    tiny: Done,
    images_read_once: None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = StudyStore(tmp_path / "store", TINY.setting)
    store.prepare()
    folder = store.saves(training).folder
    folder.mkdir(parents=True)
    with held(folder) as process:
        say = Progress.say

        def kill_when_waited_for(progress: Progress, text: str) -> None:
            say(progress, text)
            if text.startswith("waits"):
                os.kill(process, 9)

        monkeypatch.setattr(Progress, "say", kill_when_waited_for)
        run(TINY, store=store.store, workers=1, progress="lines")
    line = f"waits: process {process} on {platform.node()} is at work in {folder}\n"
    assert capfd.readouterr().out.count(line) == 1
    assert states(store.store) == states(tiny.store)


def test_a_folder_without_the_systems_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock file that stands for a lock would stay for ever after its process has died."""

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(filelock._unix.fcntl, "flock", missing)
    with pytest.raises(StoreError, match=f"into the folder {tmp_path}: its file system has no locks; choose another"):
        TrainingFolder(tmp_path).locked().__enter__()
    monkeypatch.undo()
    with TrainingFolder(tmp_path).locked():
        pass


def test_a_run_says_that_another_processor_began_what_it_goes_on_with(
    copy: Done, images_read_once: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    deeper = copy.study.updated(levels=2)
    monkeypatch.setattr("lth_study.devices.device_name", lambda: "another processor")
    run(deeper, store=copy.store, workers=1, progress="lines")
    (device,) = set(copy.records["device"])
    assert f"goes on from trainings of {device}; another processor rounds differently\n" in capfd.readouterr().out
