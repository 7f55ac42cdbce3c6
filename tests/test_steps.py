"""Networks side by side on one device: the same bits as one after the other.

Without a GPU, threads need no streams.
"""

import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from lth_study import Study, preset, records
from lth_study.data.parts import DataError
from lth_study.parallel import complete_side_by_side
from lth_study.plan import distances, missing
from lth_study.settings import SettingError
from lth_study.store import StudyStore
from lth_study.training import Stopped
from lth_study.training.steps import check_compiler
from lth_study.trainings import Trainings
from lth_study.worker import Chain, Worker

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")


def study_of(network: str) -> Study:
    brief = {"replicates": 2, "orders": 1, "barriers": False, "levels": 1, "compared_levels": (1,), "rewinds": (2,)}
    return preset(network, profile="smoke").only("stability").updated(**brief)


def opened(folder: Path, network: str = "lenet_300_100", **changes: int) -> Trainings:
    store = StudyStore(folder, study_of(network).setting.updated(**changes))
    store.prepare()
    return Trainings(store)


@pytest.fixture
def no_streams(few_images: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTH_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)


def absent(trainings: Trainings):
    known = records.known(trainings.setting, trainings.store.store)[0]
    return missing(known, study_of(trainings.setting.network))


def distances_of(trainings: Trainings):
    return distances(study_of(trainings.setting.network))


def test_threads_do_all_trainings_once_and_the_same_as_one_after_the_other(
    tmp_path: Path, no_streams: None, monkeypatch: pytest.MonkeyPatch
):
    """Of SqueezeNet, whose weights and dropout torch draws."""
    beside, alone = (opened(tmp_path / name, "squeezenet1_0") for name in ("beside", "alone"))
    done: list[str] = []
    finish = type(beside.store.saves(absent(beside)[0])).finish
    monkeypatch.setattr(
        "lth_study.store.TrainingFolder.finish",
        lambda self, result, *rest: (done.append(str(self.folder)), finish(self, result, *rest)),
    )
    monkeypatch.setattr(Worker, "wait", lambda self, seconds: time.sleep(0.3))  # not nine times what it looked
    complete_side_by_side(beside, absent(beside), distances_of(beside), 3)
    assert sorted(done) == sorted(set(done))
    assert absent(beside) == []
    Worker(alone).complete(absent(alone))
    for training, result in alone.store.results().items():
        assert beside.store.results()[training]["metrics"] == result["metrics"]
        ends = [each.store.saves(training).load_end() for each in (beside, alone)]
        assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())


def test_what_one_thread_raises_stops_the_others_and_is_raised(
    tmp_path: Path, no_streams: None, monkeypatch: pytest.MonkeyPatch
):
    busy = opened(tmp_path, iterations=100_000)
    before = Chain.dense_run

    def dense_run(self: Chain):
        if self.replicate == 2:
            raise DataError("an image has gone")
        return before(self)

    monkeypatch.setattr(Chain, "dense_run", dense_run)
    with pytest.raises(DataError, match="an image has gone"):
        complete_side_by_side(busy, absent(busy), [], 2)


def test_asked_to_stop_all_threads_save_their_checkpoints(tmp_path: Path, no_streams: None):
    busy = opened(tmp_path, iterations=100_000)
    busy.stop_requested = lambda: True
    with pytest.raises(Stopped):
        complete_side_by_side(busy, absent(busy), [], 2)
    for replicate in (1, 2):
        assert (busy.store.folder / f"replicate_{replicate}/dense/checkpoint.safetensors").exists()


def test_a_missing_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(SettingError, match=r"no C compiler is found .* 2,000 iterations or more are compiled"):
        check_compiler()
    compiler = tmp_path / "mycc"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CC", "mycc")
    check_compiler()


@needs_a_gpu
def test_networks_side_by_side_on_a_gpu_end_with_the_bits_of_one_alone(tmp_path: Path):
    beside, alone = (opened(tmp_path / name, "resnet20", iterations=40) for name in ("beside", "alone"))
    complete_side_by_side(beside, absent(beside), [], 6)
    complete_side_by_side(alone, absent(alone), [], 1)
    for training in alone.store.results():
        ends = [each.store.saves(training).load_end() for each in (beside, alone)]
        assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())
