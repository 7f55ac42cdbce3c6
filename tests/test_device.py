"""Training on another device than the processor; variables that name it: empty ones count as unset, wrong ones fail."""

import os
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lth_core import Mask, subnetwork
from lth_study import SettingError, preset
from lth_study.checked import whole_number
from lth_study.data.augmentation import crop_and_flip
from lth_study.data.parts import Dataset, Split
from lth_study.devices import compute_device, cores
from lth_study.networks import build
from lth_study.records import store_folder
from lth_study.runner import train_missing
from lth_study.settings import Setting
from lth_study.store import StudyStore
from lth_study.training.train import Trained, train
from lth_study.training.updates import FlatNetwork
from lth_study.trainings import Trainings, images_of
from lth_study.worker import initial

SMOKE = [preset(network, profile="smoke").setting for network in ("lenet_300_100", "resnet20")]
every_network = pytest.mark.parametrize("setting", SMOKE, ids=lambda setting: setting.network)
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")


@every_network
def test_everything_that_an_update_needs_lies_on_the_device_of_the_network(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
):
    """Tensors without values stand for those of a GPU; an operation on two devices at once fails for them too."""
    weights, mask = initial(setting, 1), Mask.ones(build(setting))
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, weights: [torch.zeros_like(each) for each in weights])
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *tensors, **settings: None)  # both want a real GPU
    shape = (8, 28, 28) if setting.network == "lenet_300_100" else (8, 3, 8, 8)
    with FakeTensorMode(allow_non_fake_inputs=True):
        gpu = torch.device("cuda", 0)
        with gpu:
            model = build(setting)
        network = FlatNetwork(model, mask, setting)
        network.load(weights)
        batch = Split(torch.zeros(shape, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)).to(gpu)
        images = batch.images
        if setting.augment:
            with gpu:
                draws = torch.zeros(8, 2, dtype=torch.int64), torch.zeros(8, dtype=torch.bool)
            images = crop_and_flip(images, *draws)
        network.update(images, batch.labels, 0.1)
        held = [network.weights, network.gradient, network.mask, network.updates, *network.moments.values(), images]
        assert {tensor.device for tensor in held} == {gpu}
        assert {tensor.device.type for tensor in network.state().values()} == {"cpu"}


def test_tf32_is_refused_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTH_DEVICE", "cpu")
    with pytest.raises(SettingError, match=r"precision: tf32 is arithmetic of GPUs, not of the cpu here"):
        Trainings(StudyStore(tmp_path, SMOKE[1].updated(precision="tf32")))


def test_the_device_is_the_gpu_if_there_is_one_and_can_be_named(monkeypatch: pytest.MonkeyPatch):
    assert compute_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setenv("LTH_DEVICE", "cpu")
    assert compute_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:97", "meta"])
def test_a_device_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTH_DEVICE", name)
    with pytest.raises(SettingError, match=f"LTH_DEVICE: '{name}' is not (a device of this|valid; expected cpu)"):
        compute_device()


def trained(setting: Setting, images: Dataset, device: str) -> Trained:
    mask = Mask.ones(build(setting))
    half = Mask({name: torch.arange(kept.numel()).view(kept.shape) % 2 == 0 for name, kept in mask.items()})
    ticket = subnetwork(initial(setting, 1), half, 0, 1)
    return train(setting, images.to(torch.device(device)), ticket, replicate=1, order=0)


@needs_a_gpu
@every_network
def test_a_gpu_trains_as_the_processor_does_and_the_same_bits_twice(setting: Setting):
    images = images_of(setting)
    once, twice = (trained(setting, images, "cuda") for _ in range(2))
    assert all(torch.equal(once.state[name], twice.state[name]) for name in once.state)
    here = trained(setting.updated(iterations=1, drops=()), images, "cpu").state
    there = trained(setting.updated(iterations=1, drops=()), images, "cuda").state
    for name, tensor in here.items():
        assert there[name].device.type == "cpu"
        torch.testing.assert_close(there[name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be bound to cores here")
def test_the_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert 1 <= cores() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("value", ["", " ", "0", "1"])
def test_one_process_trains_whatever_says_that_there_is_one(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = preset("lenet_300_100", profile="smoke").only("stability").updated(levels=0, orders=1, barriers=False)
    monkeypatch.setenv("WORLD_SIZE", value)
    monkeypatch.setenv("LTH_DEVICE", "")
    monkeypatch.setenv("LOCAL_RANK", "")
    assert compute_device().type in ("cpu", "cuda")
    train_missing(study, store_folder(), workers=1)
    assert list(store_folder().glob("*/replicate_1/dense/result.json"))


def test_digits_are_a_number_and_anything_else_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert whole_number("LTH_READERS", 7) == 7
    monkeypatch.setenv("LTH_READERS", " 3 ")
    assert whole_number("LTH_READERS", 7) == 3
    for value in ("two", "-1", "1.5"):
        monkeypatch.setenv("LTH_READERS", value)
        with pytest.raises(SettingError, match=rf"LTH_READERS: '{value}' is not a number; expected digits, 0 or more"):
            whole_number("LTH_READERS", 7)
