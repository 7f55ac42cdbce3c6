"""Processes that train one network together, started by torchrun over Gloo, against one process alone."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from doubles import write_imagenet

from lth_core import Mask, subnetwork
from lth_study import SettingError, data, preset, run, trainings
from lth_study.networks import build, initial_weights
from lth_study.records import store_folder
from lth_study.runner import train_missing
from lth_study.settings import Setting
from lth_study.store import StudyStore, Training, dense
from lth_study.training.evaluation import accuracies
from lth_study.training.train import Job, train
from lth_study.trainings import Trainings
from lth_study.worker import Chain

STUDY = (
    preset("lenet_300_100", profile="smoke")
    .only("stability")
    .updated(
        optimizer="momentum", learning_rate=0.1, iterations=40, levels=1, rewinds=(10,), orders=1, methods=("imp",)
    )
)
"""With momentum, since Adam would not notice a gradient that is the sum over processes instead of the mean."""
OPTIONS = ["--profile", "smoke", "--levels", "1", "--rewinds", "10", "--orders", "1", "--figure", "stability",
           "--set=optimizer=momentum", "--set=learning_rate=0.1", "--set=iterations=40",
           '--set=methods=["imp"]']  # fmt: skip

FILES = preset("squeezenet1_0", profile="smoke").only("stability").updated(
    dataset="imagenet", classes=3, batch_size=4, augment=True, smallest_crop=0.3, image_size=24, iterations=20,
    learning_rate=0.02, rewinds=(2,), orders=1, methods=("imp",),
)  # fmt: skip
"""A network without batch norm on images that are read from their files, over an epoch's end at iteration 14."""
FILES_OPTIONS = ["--profile", "smoke", "--figure", "stability", "--dataset", "imagenet", "--rewinds", "2", "--orders",
                 "1", *(f"--set={name}={value}" for name, value in (
    ("classes", 3), ("batch_size", 4), ("augment", "true"), ("smallest_crop", 0.3), ("image_size", 24),
    ("iterations", 20), ("learning_rate", 0.02), ("methods", '["imp"]'),
))]  # fmt: skip
WITHOUT_DROPOUT = """
import os, runpy, signal, time
import torch
from lth_study.training.updates import FlatNetwork

update, updates = FlatNetwork.update, []

def counted(self, *batch):
    update(self, *batch)
    updates.append(batch)
    if (os.environ["RANK"], str(len(updates))) == ("0", os.environ.get("STOP_AFTER")):
        os.kill(os.getppid(), signal.SIGTERM)  # torchrun, which hands it down
        time.sleep(1)

FlatNetwork.update = counted
torch.nn.Dropout.forward = lambda self, inputs: inputs
runpy.run_module("lth_study", run_name="__main__")
"""
"""The command line, without the dropout in which processes differ; after `STOP_AFTER` updates everything is stopped."""


def start(
    store: Path,
    processes: int,
    network: str = "lenet_300_100",
    *options: str,
    program: Sequence[str] = ("-m", "lth_study"),
    **variables: str,
) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    chosen = options or OPTIONS
    command = [*launcher, *program, "run", network, *chosen, "--store", str(store)]
    environment = {**os.environ, "LTH_DEVICE": "cpu", "PYTHONFAULTHANDLER": "1", **variables}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen[str], store: Path) -> tuple[str, str]:
    """What the processes printed. Those that do not end, with the ones that read for them, say where they are."""
    try:
        return process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(store) in file.read_text():
                    os.kill(int(file.parent.name), signal.SIGABRT)
        pytest.fail("\n".join(process.communicate(timeout=60)))


def finish(process: subprocess.Popen[str], store: Path) -> None:
    _, errors = ended(process, store)
    assert process.returncode == 0, errors


def test_two_processes_end_where_one_does_but_for_rounding(tmp_path: Path):
    one, two = (StudyStore(tmp_path / name, STUDY.setting) for name in ("alone", "together"))
    run(STUDY, store=one.store, workers=1)
    finish(start(two.store, 2), two.store)
    assert one.results().keys() == two.results().keys()
    for training, result in one.results().items():
        other = two.results()[training]
        assert other["metrics"] == pytest.approx(result["metrics"], abs=0.81)  # of 500 images, four
        assert other["provenance"]["device"].startswith("2 x ")
        ends = [study.saves(training).load_end() for study in (one, two)]
        for name, tensor in ends[0].items():
            assert (tensor - ends[1][name]).abs().mean() < 2e-3 * tensor.abs().mean().clamp_min(1e-3), name


def test_the_accuracy_of_two_processes_is_that_of_the_network_that_is_kept(tmp_path: Path):
    """Batch norm's running averages differ between processes, and only the first one's are kept."""
    setting = preset("resnet20", profile="smoke").setting
    finish(start(tmp_path, 2, "resnet20", "--profile", "smoke", "--figure", "stability", "--rewinds", "0",
                 "--levels", "0"), tmp_path)  # fmt: skip
    kept = StudyStore(tmp_path, setting).saves(dense(1))
    model = build(setting)
    model.load_state_dict({name: tensor for name, tensor in kept.load_end().items() if name in model.state_dict()})
    images = data.load("mnist_embedded", color=True, size=setting.image_size)
    assert accuracies(model, images.test) == [pytest.approx(kept.result()["metrics"]["test_accuracy"], abs=0.01)]


@pytest.fixture
def without_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with a data folder that has images in files."""
    write_imagenet(tmp_path / "data")
    monkeypatch.setenv("LTH_READERS", "1")
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, inputs: inputs)


def assert_moved_alike(one: StudyStore, other: StudyStore) -> None:
    """Rounding may let a weight or two fall on the other side of the pruning threshold."""
    initial = Chain(Trainings(one), 1, "imp", 0).initial()
    for training in (dense(1), Training(1, "imp", 2, 1, 0)):
        mask, same = (study.saves(training).load_mask() for study in (one, other))
        assert sum(int((mask[name] != same[name]).sum()) for name in mask) <= 1e-5 * mask.size
        ends = [study.saves(training).load_end() for study in (one, other)]
        for name, before in initial.items():
            kept = mask[name] & same[name] if name in mask else torch.ones_like(before, dtype=torch.bool)
            first, second = (end[name][kept] for end in ends)
            assert (first - second).norm() < 1e-2 * (first - before[kept]).norm(), name


def test_two_processes_share_images_in_files_and_end_where_one_does(without_dropout: None, tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(WITHOUT_DROPOUT)
    one, two, resumed = (StudyStore(tmp_path / name, FILES.setting) for name in ("one", "two", "resumed"))
    run(FILES, store=one.store, workers=1)
    stopped = start(resumed.store, 2, "squeezenet1_0", *FILES_OPTIONS, program=[str(program)], STOP_AFTER="3")
    output, errors = ended(stopped, resumed.store)
    assert "the same command goes on from here" in output, errors
    assert stopped.returncode != 0
    checkpoint = resumed.saves(dense(1)).load_checkpoint() or pytest.fail("no checkpoint")
    assert 3 <= checkpoint[0] < FILES.setting.iterations
    assert len(list(resumed.store.rglob("checkpoint.safetensors"))) == 1
    run(FILES, store=resumed.store, workers=1)
    assert list(resumed.store.rglob("checkpoint.safetensors")) == []
    finish(start(two.store, 2, "squeezenet1_0", *FILES_OPTIONS, program=[str(program)]), two.store)
    for study in (two, resumed):
        assert study.results().keys() == one.results().keys() == {dense(1), Training(1, "imp", 2, 1, 0)}
        for training, result in one.results().items():
            assert study.results()[training]["metrics"] == pytest.approx(result["metrics"], abs=7)  # of 15 images, one
        assert_moved_alike(one, study)
    assert all(result["provenance"]["device"].startswith("2 x ") for result in two.results().values())


@pytest.mark.parametrize("setting", [STUDY.setting, FILES.setting], ids=["in memory", "in files"])
def test_a_process_that_takes_part_is_given_nothing_to_save_with_and_writes_nothing(
    setting: Setting, without_dropout: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Were it to write too, it would write the same files as the first process, and nobody would see it."""
    ticket = subnetwork(initial_weights(setting, torch.Generator().manual_seed(1)), Mask.ones(build(setting)), 0, 0)
    handed_out = iter([Job(setting.to_json(), ticket, 1, 0, 2), "the last word"])
    trained, written = [], []
    monkeypatch.setattr("lth_study.ranks.receive", lambda: next(handed_out))
    monkeypatch.setattr(trainings, "train", lambda *job, **which: trained.append((which, train(*job, **which))))
    monkeypatch.setattr("lth_study.store.write_atomic", lambda path, *_: written.append(path))
    monkeypatch.setattr("lth_study.store.write_state", lambda path, *_: written.append(path))
    monkeypatch.setattr("lth_study.training.train.CHECKPOINT_SECONDS", 0.0)
    assert trainings.take_part() == "the last word"
    ((which, ended),) = trained
    assert which.get("saves") is None
    assert not which.get("keep")
    assert any(not torch.equal(ended.state[name], ticket.weights[name]) for name in ticket.mask)
    assert written == []
    assert not store_folder().exists()


@pytest.mark.parametrize(
    ("processes", "changes", "workers", "message"),
    [
        (7, {}, 1, "batch_size: 60 cannot be shared equally by 7 processes"),
        (600, {"batch_size": 600}, 1, "WORLD_SIZE: 600 processes are more than 500 images to evaluate; start fe"),
        (2, {}, 3, "workers: 3 is too many; the 2 processes here train one network together"),
    ],
)
def test_processes_that_cannot_share_the_work_are_refused(
    processes: int, changes: dict[str, int], workers: int, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lth_study.ranks.rank_and_count", lambda: (0, processes))
    with pytest.raises(SettingError, match=message):
        run(STUDY.updated(**changes), workers=workers)


def test_a_count_of_processes_that_nothing_has_started_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingError, match=r"WORLD_SIZE: 4 processes .* but RANK, MASTER_ADDR, MASTER_PORT is not set"):
        train_missing(STUDY, store_folder())
