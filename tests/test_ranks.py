"""Processes that train one network together, started by torchrun over Gloo, against one process alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lth_core import ConfigError, data, preset, run
from lth_core import ranks as together
from lth_core.files import read_state
from lth_core.models import build
from lth_core.records import store_folder
from lth_core.store import StudyStore, Training, dense
from lth_core.study import train_missing
from lth_core.train import accuracies

CONFIG = preset("lenet_300_100", profile="smoke").updated(optimizer="momentum", learning_rate=0.1)
"""With momentum, since Adam would not notice a gradient that is the sum over processes instead of the mean."""
OPTIONS = ["--profile", "smoke", "--levels", "1", "--rewinds", "20", "--orders", "1", "--figure", "stability",
           "--set", "optimizer=momentum", "--set", "learning_rate=0.1"]  # fmt: skip
STUDY = CONFIG.updated(levels=1, rewinds=(20,), orders=1)
TICKET = Training(1, "imp", 20, 1, 0)


def start(store: Path, processes: int, network: str = "lenet_300_100", *options: str) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    chosen = options or OPTIONS
    command = [*launcher, "-m", "lth_core.cli", "run", network, *chosen, "--store", str(store)]
    environment = {**os.environ, "LTH_DEVICE": "cpu"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("alone")
    run(STUDY, store=store, workers=1)
    return store


def assert_ends_agree(one: StudyStore, other: StudyStore) -> None:
    assert one.results().keys() == other.results().keys()
    for training in (dense(1), TICKET):
        ends = [study.saves(training).load_end() for study in (one, other)]
        for name, tensor in ends[0].items():
            assert (tensor - ends[1][name]).abs().mean() < 2e-3 * tensor.abs().mean().clamp_min(1e-3), name


def test_two_processes_end_where_one_does_but_for_rounding(alone: Path, tmp_path: Path):
    store = tmp_path / "together"
    finish(start(store, 2))
    one, two = (StudyStore(folder, CONFIG) for folder in (alone, store))
    assert one.results().keys() == two.results().keys()
    for training, result in one.results().items():
        other = two.results()[training]
        assert other["metrics"] == pytest.approx(result["metrics"], abs=0.81)  # of 500 images, four
        assert other["provenance"]["device"].startswith("2 x ")
    assert_ends_agree(one, two)


def test_the_accuracy_of_two_processes_is_that_of_the_network_that_is_kept(tmp_path: Path):
    """Batch norm's running averages differ between processes, and only the first one's are kept."""
    config = preset("resnet20", profile="smoke")
    finish(start(tmp_path, 2, "resnet20", "--profile", "smoke", "--figure", "stability", "--rewinds", "0",
                 "--levels", "0"))  # fmt: skip
    kept = StudyStore(tmp_path, config).saves(dense(1))
    model = build(config)
    model.load_state_dict({name: tensor for name, tensor in kept.load_end().items() if name in model.state_dict()})
    images = data.load("mnist_embedded", color=True, size=config.image_size)
    assert accuracies(model, images.test) == [pytest.approx(kept.result()["metrics"]["test_accuracy"], abs=0.01)]


def test_two_processes_stop_together_and_one_goes_on_from_their_checkpoint(alone: Path, tmp_path: Path):
    store = tmp_path / "together"
    process = start(store, 2)
    folder = StudyStore(store, CONFIG).folder / "replicate_1" / "dense"
    deadline = time.monotonic() + 120
    while not (folder / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert "the same command goes on from here" in output, errors
    assert process.returncode != 0
    checkpoints = list(store.rglob("checkpoint.safetensors"))
    assert len(checkpoints) == 1
    assert 0 <= int(read_state(checkpoints[0])[1]["iteration"]) < CONFIG.iterations
    run(STUDY, store=store, workers=1)
    assert not checkpoints[0].exists()
    assert_ends_agree(StudyStore(alone, CONFIG), StudyStore(store, CONFIG))


def test_a_batch_that_cannot_be_shared_equally_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lth_core.ranks.rank_and_count", lambda: (0, 7))
    with pytest.raises(ConfigError, match="batch_size: 60 cannot be shared equally by 7 processes"):
        run(CONFIG, workers=1)


def test_further_workers_beside_processes_that_train_together_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lth_core.ranks.rank_and_count", lambda: (0, 2))
    with pytest.raises(ConfigError, match="workers: 3 is too many; the 2 processes here train one network together"):
        train_missing([CONFIG], store_folder(), workers=3)


def test_a_process_alone_talks_to_nobody():
    tensor = torch.tensor([1.0, 3.0])
    together.hand_out(None)
    together.average_(tensor)
    assert together.total(tensor).tolist() == [1.0, 3.0]
    assert together.rank_and_count() == (0, 1)
    assert together.agreed(True, torch.device("cpu"))
