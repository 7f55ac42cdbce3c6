"""The updates of a training as a GPU replays them, and networks side by side: the same numbers as one by one.

Without a GPU, a recorded update stands for the graph made of it, and threads need no streams.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lth_core import subnetwork
from lth_core.masks import Mask
from lth_core.pruning import magnitude, prune_global
from lth_study import data, preset, seeds
from lth_study.data.parts import DataError, Dataset, Split
from lth_study.networks import build, initial_weights
from lth_study.parallel import complete_side_by_side
from lth_study.plan import missing
from lth_study.runner import _known
from lth_study.settings import Setting, SettingError
from lth_study.store import StudyStore
from lth_study.training import Stopped
from lth_study.training.steps import DrawnBatches, PlainSteps, RecordedSteps, check_compiler
from lth_study.training.train import steady_arithmetic, train
from lth_study.training.updates import FlatNetwork
from lth_study.worker import Worker

NETWORKS = ("lenet_300_100", "resnet20", "vgg19")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")


def smoke(network: str) -> tuple[Setting, Dataset]:
    setting = preset(network, profile="smoke").setting
    if network != "lenet_300_100":
        setting = setting.updated(augment=True)
    images = data.load("mnist_embedded", color=network != "lenet_300_100", size=setting.image_size)
    few = Split(images.train.images[:100], images.train.labels[:100])
    return setting, replace(images, train=few)


def half(setting: Setting):
    weights = initial_weights(setting, seeds.stream(1, "init"))
    mask = Mask.ones(build(setting))
    mask = prune_global(magnitude({name: weights[name] for name in mask}), mask, 0.5)
    return subnetwork(weights, mask, 0, 1)


@pytest.mark.parametrize(
    ("network", "changes"), [*((name, {}) for name in NETWORKS), ("resnet20", {"weight_decay_on": "convolutions"})]
)
def test_recorded_updates_train_as_plain_ones_do_over_epochs_and_from_within_one(
    network: str, changes: dict[str, str], no_graphs: None
):
    setting, images = smoke(network)
    setting = setting.updated(**changes)
    ticket, which = half(setting), {"replicate": 1, "order": 2}
    at, ends = {5: {}}, []
    saves = SimpleNamespace(load_checkpoint=lambda: None, save_state=lambda k, state: at[k].update(state))
    train(setting, images, ticket, **which, stop=9, keep=(5,), saves=saves)
    for start, state in ((0, ticket.weights), (5, at[5])):
        network_ = FlatNetwork(build(setting), ticket.mask, setting)
        network_.model.train()
        recorded = RecordedSteps(setting, network_, DrawnBatches(setting, images.train, **which), compiled=False)
        network_.load(state)
        iteration = start
        with steady_arithmetic():
            while iteration < 9:
                for update in recorded.epoch(*divmod(iteration, len(images.train) // setting.batch_size)):
                    if iteration < 9:
                        update()
                        iteration += 1
        ends.append(network_.state())
    plain = train(setting, images, ticket, **which, stop=9).state
    for name, tensor in plain.items():
        for end in ends:  # learning rates are in single precision where a tensor holds them
            torch.testing.assert_close(end[name], tensor, rtol=1e-3, atol=1e-5)
    for name, kept in ticket.mask.items():
        assert not ends[0][name][~kept].any()


def worker(folder: Path, network: str = "lenet_300_100", **settings) -> Worker:
    setting = preset(network, profile="smoke").setting.updated(replicates=2, **settings)
    store = StudyStore(folder, setting)
    store.prepare()
    return Worker(store)


@pytest.fixture
def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)


def absent(worker: Worker):
    return missing(_known(worker.store.store, worker.setting), worker.setting)


@pytest.mark.parametrize("network", ["lenet_300_100", "squeezenet1_0"])  # whose weights and dropout torch draws
def test_threads_do_all_trainings_once_and_the_same_as_one_after_the_other(
    network: str, tmp_path: Path, no_streams: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTH_DEVICE", "cpu")
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
    beside, alone = worker(tmp_path / "beside", network), worker(tmp_path / "alone", network)
    done: list[str] = []
    finish = type(beside.store.saves(absent(beside)[0])).finish
    monkeypatch.setattr(
        "lth_study.store.TrainingFolder.finish",
        lambda self, result, *rest: (done.append(str(self.folder)), finish(self, result, *rest)),
    )
    complete_side_by_side(beside, absent(beside), [], 4)
    assert sorted(done) == sorted(set(done))
    assert absent(beside) == []
    alone.complete(absent(alone))
    for training, result in alone.store.results().items():
        assert beside.store.results()[training]["metrics"] == result["metrics"]
        ends = [each.store.saves(training).load_end() for each in (beside, alone)]
        assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())


def test_what_one_thread_raises_stops_the_others_and_is_raised(
    tmp_path: Path, no_streams: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTH_DEVICE", "cpu")
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
    busy = worker(tmp_path, iterations=100_000)
    before = Worker.dense_run

    def dense_run(self: Worker, replicate: int):
        if replicate == 2:
            raise DataError("an image has gone")
        return before(self, replicate)

    monkeypatch.setattr(Worker, "dense_run", dense_run)
    with pytest.raises(DataError, match="an image has gone"):
        complete_side_by_side(busy, absent(busy), [], 2)


def test_asked_to_stop_all_threads_save_their_checkpoints(
    tmp_path: Path, no_streams: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTH_DEVICE", "cpu")
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
    busy = worker(tmp_path, iterations=100_000)
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
@pytest.mark.parametrize("network", NETWORKS)
def test_a_graph_does_what_plain_updates_on_the_gpu_do(network: str, monkeypatch: pytest.MonkeyPatch):
    setting, images = smoke(network)
    there = images.to(torch.device("cuda"))
    recorded = train(setting, there, half(setting), replicate=1, order=0, stop=9).state
    monkeypatch.setattr("lth_study.training.train.steps", PlainSteps)
    plain = train(setting, there, half(setting), replicate=1, order=0, stop=9).state
    for name, tensor in plain.items():
        torch.testing.assert_close(recorded[name], tensor, rtol=1e-3, atol=1e-5)


@needs_a_gpu
def test_networks_side_by_side_on_a_gpu_end_with_the_bits_of_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
    beside, alone = (worker(tmp_path / name, "resnet20", iterations=40) for name in ("beside", "alone"))
    complete_side_by_side(beside, absent(beside), [], 6)
    complete_side_by_side(alone, absent(alone), [], 1)
    for training in alone.store.results():
        ends = [each.store.saves(training).load_end() for each in (beside, alone)]
        assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())
