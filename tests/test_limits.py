"""The least that a training costs, counted by hand and by torch's own counter."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lth_study import data, preset
from lth_study.costs.limits import CACHE_BYTES, floor_seconds, iteration_bytes, iteration_flops, layers, training_bytes
from lth_study.data import image_shape
from lth_study.networks import build
from lth_study.report import NETWORK_NAMES

LENET = preset("lenet_300_100").setting
RESNET20 = preset("resnet20").setting
SMALLEST = [preset(network, profile="smoke").setting for network in NETWORK_NAMES]


def resnet20_by_hand() -> list[tuple[int, int]]:
    """Multiplications of every layer for one image of 32 pixels, and how many numbers it outputs."""
    stem = (3 * 9 * 16 * 32**2, 16 * 32**2)
    first = [(16 * 9 * 16 * 32**2, 16 * 32**2)] * 6
    narrowed = [(16 * 9 * 32 * 16**2, 32 * 16**2), (16 * 32 * 16**2, 32 * 16**2)]  # a stride of 2, and the shortcut
    second = [(32 * 9 * 32 * 16**2, 32 * 16**2)] * 5
    narrowed_again = [(32 * 9 * 64 * 8**2, 64 * 8**2), (32 * 64 * 8**2, 64 * 8**2)]
    third = [(64 * 9 * 64 * 8**2, 64 * 8**2)] * 5
    return [stem, *first, *narrowed, *second, *narrowed_again, *third, (64 * 10, 10)]


def test_lenet_does_three_products_forward_three_for_its_weights_and_two_for_its_inputs():
    forward = 784 * 300 + 300 * 100 + 100 * 10
    backward = 300 * 100 + 100 * 10
    assert iteration_flops(LENET) == 60 * 2 * (forward + forward + backward) == 67_608_000


def test_resnet20_takes_the_well_known_41_million_multiplications_for_an_image():
    multiplications = sum(count for count, _ in resnet20_by_hand())
    shortcuts = 16 * 32 * 16**2 + 32 * 64 * 8**2
    assert multiplications - shortcuts == 40_551_040  # the figure for shortcuts without weights
    assert sum(layer.flops for layer in layers(RESNET20)) == 128 * 2 * multiplications
    stem = 3 * 9 * 16 * 32**2
    assert iteration_flops(RESNET20) == 128 * 2 * (3 * multiplications - stem)


@pytest.mark.parametrize("setting", SMALLEST, ids=lambda setting: setting.network)
def test_operations_are_those_that_torch_counts_in_a_gradient(setting):
    model, color = build(setting), setting.network != "lenet_300_100"
    shape = (setting.batch_size, *image_shape(setting.dataset, color=color, size=setting.image_size))
    images, labels = torch.zeros(shape, dtype=torch.uint8), torch.zeros(setting.batch_size, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(images), labels).backward()
    assert iteration_flops(setting) == counter.get_total_flops()


def test_lenets_gradient_by_hand_does_what_is_counted():
    model, setting = build(LENET), LENET
    gradients = {name: torch.empty_like(parameter) for name, parameter in model.named_parameters()}
    images, labels = torch.zeros(60, 28, 28, dtype=torch.uint8), torch.zeros(60, dtype=torch.int64)
    write = model.backward(gradients)
    with FlopCounterMode(display=False) as counter:
        write(images, labels)
    assert iteration_flops(setting) == counter.get_total_flops()


def test_an_auxiliary_head_is_counted():
    inception = preset("inception_v3", profile="imagenette").setting.updated(image_size=299, batch_size=2)
    with_head = inception.updated(auxiliary_loss=0.4)
    # the auxiliary head averages 17x17 to 5x5, then a 1x1 convolution of 768 to 128 channels, a 5x5 one to 768, logits
    head = 768 * 128 * 5 * 5 + 128 * 5 * 5 * 768 + 768 * 10
    assert iteration_flops(with_head) - iteration_flops(inception) == 2 * 3 * 2 * head


def test_bytes_of_lenet_with_and_without_a_cache():
    images = 60 * 784
    outputs = 60 * (300 + 100 + 10)
    weights_and_adams_moments = 3 * (784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10)
    without = iteration_bytes(LENET, cache_bytes=0)
    assert without == images + 2 * 4 * (outputs + weights_and_adams_moments)
    assert without - iteration_bytes(LENET, cache_bytes=1_000) == 2 * 1_000
    assert iteration_bytes(LENET) == images


def test_bytes_of_resnet20_in_float32_and_bfloat16():
    outputs = 128 * sum(count for _, count in resnet20_by_hand())
    weights_and_momentum = 2 * sum(parameter.numel() for parameter in build(RESNET20).parameters())
    waiting = 4 * (outputs + weights_and_momentum)
    assert iteration_bytes(RESNET20) == 128 * 3 * 32**2 + 2 * (waiting - CACHE_BYTES)
    assert iteration_bytes(RESNET20, 0) - iteration_bytes(RESNET20.updated(precision="bfloat16"), 0) == 2 * 2 * outputs
    assert iteration_bytes(RESNET20.updated(precision="tf32")) == iteration_bytes(RESNET20)


@pytest.mark.parametrize(
    ("changes", "vectors"),
    [
        ({"optimizer": "adam"}, 1),
        ({"optimizer": "nesterov"}, 0),
        ({"optimizer": "rmsprop"}, 1),
        ({"optimizer": "rmsprop", "weight_average": 0.9}, 2),
    ],
    ids=str,
)
def test_moments_and_the_average_of_the_weights_wait_too(changes, vectors):
    more = iteration_bytes(RESNET20.updated(**changes), 0) - iteration_bytes(RESNET20, 0)
    assert more == vectors * 2 * 4 * sum(parameter.numel() for parameter in build(RESNET20).parameters())


def test_a_floor_is_the_slower_of_arithmetic_and_memory_in_every_iteration():
    flops, moved = iteration_flops(RESNET20), iteration_bytes(RESNET20)
    assert floor_seconds(RESNET20, flops, moved / 0.5) == pytest.approx(RESNET20.iterations)
    assert floor_seconds(RESNET20, flops, moved / 2) == pytest.approx(2 * RESNET20.iterations)
    assert floor_seconds(RESNET20, flops, float("inf")) == pytest.approx(RESNET20.iterations)
    without_cache = iteration_bytes(RESNET20, 0)
    assert floor_seconds(RESNET20, flops, without_cache / 3, 0) == pytest.approx(3 * RESNET20.iterations)


def test_an_image_has_the_shape_that_is_foretold():
    for shape in ({}, {"color": True}, {"color": True, "size": 8}):
        assert data.load("mnist_embedded", **shape).train.images.shape[1:] == image_shape("mnist_embedded", **shape)
    sides = {"imagenette": data.DEFAULT_SIZE, "imagenet": data.DEFAULT_SIZE, "cifar10": 32}
    assert {name: image_shape(name, color=True) for name in sides} == {name: (3, s, s) for name, s in sides.items()}


def test_what_a_training_of_resnet_20_holds_is_counted_by_hand():
    """Each convolution's output waits, and so does what batch norm makes of it, but for the two shortcuts', which is
    only added; the images as the first convolution takes them; the averages that the output layer takes; and for every
    channel that batch norm has normalised its mean and deviation, of the batch and running."""
    channels = 7 * 16 + 7 * 32 + 7 * 64
    waiting = 128 * (3 * 32**2 + 2 * (7 * 16 * 32**2 + 6 * 32 * 16**2 + 6 * 64 * 8**2) + 32 * 16**2 + 64 * 8**2 + 64)
    vectors = 4 * sum(parameter.numel() for parameter in build(RESNET20).parameters())
    assert training_bytes(RESNET20) == 4 * (waiting + 4 * channels + vectors)  # weights, gradient, mask, momentum


def test_a_batch_in_pieces_holds_what_waits_for_one_of_them():
    whole, halved = (training_bytes(RESNET20.updated(pieces=pieces)) for pieces in (1, 2))
    vectors = 4 * 4 * sum(parameter.numel() for parameter in build(RESNET20).parameters())
    assert halved - vectors == pytest.approx((whole - vectors) / 2, rel=1e-3)
    with pytest.raises(ValueError, match="LeNet"):
        training_bytes(LENET)
