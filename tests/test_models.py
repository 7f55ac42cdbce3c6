import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lth_core import Mask
from lth_study.networks import build, initial_weights
from lth_study.networks.lenet import LeNet300100
from lth_study.presets import preset

SHAPES = {"fc1": (300, 784), "fc2": (100, 300), "output": (10, 100)}


@pytest.fixture
def model() -> LeNet300100:
    network = build(preset("lenet_300_100").setting)
    network.initialise(torch.Generator().manual_seed(1))
    return network


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (60, 28, 28), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (60,), generator=generator)


def float64_logits(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    hidden = images.flatten(1).double() / 255
    for layer in ("fc1", "fc2"):
        hidden = (hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]).clamp(min=0)
    return hidden @ weights["output.weight"].T + weights["output.bias"]


def float64_gradients(model: LeNet300100, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    weights = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    logits = float64_logits(weights, images)
    (logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]).mean().backward()
    return {name: weight.grad for name, weight in weights.items()}


def by_hand(model: LeNet300100, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    gradients = {name: torch.full_like(p, math.nan) for name, p in model.named_parameters()}
    model.backward(gradients)(images, labels)
    return gradients


def test_lenet_has_266610_parameters_of_which_266200_are_prunable(model):
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        f"{layer}.{part}": shape if part == "weight" else shape[:1]
        for layer, shape in SHAPES.items()
        for part in ("weight", "bias")
    }
    assert sum(p.numel() for p in model.parameters()) == 266_610
    assert Mask.ones(model).size == 266_200


@pytest.mark.parametrize("layer", SHAPES)
def test_initial_weights_are_gaussian_glorot_and_biases_zero(layer):
    weights = initial_weights(preset("lenet_300_100").setting, torch.Generator().manual_seed(3))
    outputs, inputs = SHAPES[layer]
    drawn = weights[f"{layer}.weight"].double().flatten() / math.sqrt(2 / (inputs + outputs))
    count = inputs * outputs
    assert abs(float(drawn.mean())) < 5 / math.sqrt(count)
    assert abs(float(drawn.std()) - 1) < 5 / math.sqrt(2 * count)
    assert abs(float((drawn**4).mean()) - 3) < 5 * math.sqrt(96 / count)
    within_one = float((drawn.abs() < 1).double().mean())
    assert within_one == pytest.approx(math.erf(1 / math.sqrt(2)), abs=2.5 / math.sqrt(count))
    assert not weights[f"{layer}.bias"].any()


def test_initial_weights_repeat_with_their_stream_and_differ_between_streams():
    draws = [
        initial_weights(preset("lenet_300_100").setting, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])
    assert not torch.equal(draws[0]["fc2.weight"], draws[2]["fc2.weight"])


def test_initialising_leaves_the_global_generator_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    model.initialise(torch.Generator().manual_seed(1))
    assert torch.rand(3).tolist() == expected


def test_forward_takes_bytes_and_agrees_with_float64(model, batch):
    images, _ = batch
    before = images.clone()
    logits = model(images)
    assert logits.shape == (60, 10)
    assert logits.dtype == torch.float32
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    torch.testing.assert_close(logits.detach().double(), float64_logits(weights, images), rtol=1e-5, atol=1e-5)
    assert torch.equal(images, before)


def test_forward_scales_bytes_to_one(model):
    white = torch.full((1, 28, 28), 255, dtype=torch.uint8)
    ones = F.relu(model.fc1(torch.ones(1, 784)))
    torch.testing.assert_close(model(white), model.output(F.relu(model.fc2(ones))))


def test_images_are_left_as_they_are_whatever_their_type(model):
    for images in (torch.ones(1, 28, 28), torch.ones(1, 28, 28, dtype=torch.uint8)):
        before = images.clone()
        model(images)
        assert torch.equal(images, before)


def test_backward_agrees_with_autograd_in_float32(model, batch):
    images, labels = batch
    F.cross_entropy(model(images), labels).backward()
    gradients = by_hand(model, images, labels)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_backward_agrees_with_autograd_in_float64(model, batch, density):
    generator = torch.Generator().manual_seed(4)
    weights = dict(model.named_parameters())
    keep = {n: torch.rand(weights[n].shape, generator=generator) < density for n in model.prunable()}
    Mask(keep).apply_(model)
    exact = float64_gradients(model, *batch)
    for name, gradient in by_hand(model, *batch).items():
        torch.testing.assert_close(gradient.double(), exact[name], rtol=1e-4, atol=1e-7)


def test_backward_agrees_with_autograd_where_units_are_dead_and_outputs_saturated(model, batch):
    with torch.no_grad():
        model.fc1.weight[:150] = 0
        model.fc2.weight[50:] = 0
        model.output.weight.mul_(1_000)
    exact = float64_gradients(model, *batch)
    for name, gradient in by_hand(model, *batch).items():
        torch.testing.assert_close(gradient.double(), exact[name], rtol=1e-3, atol=1e-3)


def test_backward_of_a_single_example(model, batch):
    images, labels = batch[0][:1], batch[1][:1]
    exact = float64_gradients(model, images, labels)
    for name, gradient in by_hand(model, images, labels).items():
        torch.testing.assert_close(gradient.double(), exact[name], rtol=1e-4, atol=1e-7)


def test_backward_changes_neither_weights_nor_images_nor_labels(model, batch):
    images, labels = batch
    before = [tensor.clone() for tensor in (images, labels, *model.parameters())]
    by_hand(model, images, labels)
    after = [images, labels, *model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
