"""The benchmark of ways to train many networks on a GPU: each way has to end where the study's own training does."""

import sys

import pytest
import torch
from conftest import PROJECT

from lth_core import data, preset
from lth_core.config import Config
from lth_core.devices import compute_device
from lth_core.train import steady_arithmetic

sys.path.insert(0, str(PROJECT / "benchmarks"))
import gpu

SMOKE = [preset(network, profile="smoke") for network in ("lenet_300_100", "resnet20")]
every_network = pytest.mark.parametrize("config", SMOKE, ids=lambda config: config.network)
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")


def images(config: Config) -> data.Dataset:
    colored = config.network != "lenet_300_100"
    return data.load("mnist_embedded", color=colored, size=config.image_size).to(compute_device())


@every_network
def test_a_loop_over_members_ends_where_training_them_one_by_one_does(config: Config):
    with steady_arithmetic():
        same = gpu.compared(config, images(config), "loop")
    assert same.largest_difference < 1e-5  # on a GPU, training is recorded, with learning rates in single precision


def test_a_way_that_does_something_else_is_found_out():
    with steady_arithmetic():
        other = gpu.compared(SMOKE[1], images(SMOKE[1]), "loop", gpu.COMPARED // 2)
    assert not other.identical
    assert other.largest_difference > 1e-3


@needs_a_gpu
@every_network
def test_recorded_updates_replayed_side_by_side_end_where_training_does(config: Config):
    with steady_arithmetic():
        same = gpu.compared(config, images(config), "graph")
    assert same.identical
