"""Where the time of a training goes: what the profiler sees of a small one is put into the right kinds."""

import pytest
import shares

from lth_study import data, preset

RESNET = preset("resnet20", profile="smoke").setting.updated(image_size=None)
LENET = preset("lenet_300_100", profile="smoke").setting


def kinds_by_name(setting) -> dict[str, set[str]]:
    """Name of an event -> the kinds that events of this name are, in two updates."""
    images = data.load("mnist_embedded", color=setting.network != "lenet_300_100", size=setting.image_size)
    seen: dict[str, set[str]] = {}
    for event in shares.events(setting, images, 2):
        seen.setdefault(event.name, set()).add(shares.kind_of(event))
    return seen


def test_the_operations_of_a_convolutional_network_are_told_apart():
    seen = kinds_by_name(RESNET)
    assert seen["aten::convolution_backward"] == seen["aten::addmm"] == {"convolutions and products"}
    assert seen["aten::native_batch_norm"] == seen["aten::native_batch_norm_backward"] == {"batch norm"}
    assert seen["aten::threshold_backward"] == seen["aten::relu_"] == {"ReLU and sums"}
    assert seen["aten::_fused_sgd_"] == seen["aten::_foreach_copy_"] == {"optimiser and mask"}
    assert seen["aten::index"] == {"data and augmentation"}  # the crops
    assert seen["aten::_log_softmax"] == {"the rest"}


def test_the_operations_of_lenet_are_told_apart():
    seen = kinds_by_name(LENET)
    assert seen["aten::mm"] == seen["aten::addmm"] == {"convolutions and products"}
    assert seen["aten::relu_"] == {"ReLU and sums"}
    assert seen["aten::_fused_adam_"] == {"optimiser and mask"}
    assert seen["aten::index_select"] == {"data and augmentation"}
    assert seen["aten::_softmax"] == {"the rest"}
    assert seen["aten::mul_"] == {"the rest"}  # by the slope of ReLU; Adam needs no mask
    assert not any("batch norm" in kinds for kinds in seen.values())


class Event:
    """What is asked of an event of the profiler."""

    def __init__(self, name, seconds, cpu_parent=None):
        self.name, self.self_cpu_time_total, self.cpu_parent = name, seconds, cpu_parent


def test_shares_are_of_the_time_that_events_take_themselves():
    update = Event("update", 1)
    gradient = Event("gradient", 1, update)
    convolution = Event("aten::convolution", 2, gradient)
    backward = Event("autograd::engine::evaluate_function: AddmmBackward0", 1, update)
    drawn = Event("data and augmentation", 3)
    every = [
        update, gradient, convolution, Event("aten::copy_", 1, convolution), backward, Event("aten::add_", 2, backward),
        Event("aten::mul_", 4, update), drawn, Event("aten::mm", 5, drawn),
    ]  # fmt: skip
    assert shares.shares(every) == pytest.approx(
        {
            "convolutions and products": 4 / 20,
            "batch norm": 0.0,
            "ReLU and sums": 2 / 20,
            "optimiser and mask": 4 / 20,
            "data and augmentation": 8 / 20,
            "the rest": 2 / 20,
        }
    )
