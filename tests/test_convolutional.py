"""ResNet-20 and VGG-19: shape, arithmetic against double precision, learning rates, and training under a mask."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from doubles import Kept, StopAt
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from lth_core import Mask
from lth_core.imp import Ticket, subnetwork
from lth_study import SettingError, data, seeds, worker
from lth_study.data import mnist
from lth_study.data.parts import Dataset, Split
from lth_study.networks import build, initial_weights
from lth_study.presets import preset
from lth_study.runner import run
from lth_study.settings import Setting
from lth_study.store import TrainingFolder
from lth_study.training import Stopped
from lth_study.training.train import Trained, pruner, train
from lth_study.training.updates import FlatNetwork, learning_rate

PAPER_VALUES = Path(__file__).parents[1] / "results" / "paper_values.csv"
RESNET = preset("resnet20", "warmup", "smoke").setting
"""Twelve iterations, the learning rate warmed up over 8, divided by 10 at 8 and again at 10; 4, 8 and 16 filters."""
VGG = preset("vgg19", "standard", "smoke").setting
NETWORKS = pytest.mark.parametrize("setting", [RESNET, VGG], ids=["resnet20", "vgg19"])

State = Mapping[str, Tensor]


def start(setting: Setting) -> dict[str, Tensor]:
    return initial_weights(setting, seeds.stream(1, "init"))


def noise(count: int, side: int, seed: int = 2) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=chance, dtype=torch.uint8)


def same_bits(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def sparse(setting: Setting, density: float = 0.5) -> Mask:
    """A random mask."""
    chance = torch.Generator().manual_seed(5)
    ones = Mask.ones(build(setting))
    return Mask({name: torch.rand(full.shape, generator=chance) < density for name, full in ones.items()})


def ones(setting: Setting) -> Mask:
    return Mask.ones(build(setting))


# Counts and shapes


def test_resnet20_has_the_papers_parameters():
    model = build(preset("resnet20").setting)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(sizes[name] for name in model.prunable()) == 267_696
    kept = {name: p for name, p in model.named_parameters() if name not in model.prunable() and p.dim() > 1}
    assert sum(p.numel() for p in kept.values() if p.dim() == 4) == 2_560
    assert {tuple(p.shape[2:]) for p in kept.values() if p.dim() == 4} == {(1, 1)}
    assert [p.numel() for p in kept.values() if p.dim() == 2] == [640]
    assert sum(sizes.values()) == 272_474
    statistics = sum(b.numel() for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var")))
    assert statistics == 1_568
    assert sum(sizes.values()) + statistics == 274_042  # the paper's 274K


def test_vgg19_has_the_papers_parameters():
    model = build(preset("vgg19").setting)
    parameters = dict(model.named_parameters())
    assert sum(parameters[name].numel() for name in model.prunable()) == 20_018_880
    assert [name for name, p in parameters.items() if name not in model.prunable() and p.dim() > 1] == ["output.weight"]
    scales = 2 * (2 * 64 + 2 * 128 + 4 * 256 + 8 * 512)
    assert sum(p.numel() for p in parameters.values()) == 20_018_880 + scales + 5_130


def test_resnet20s_axis_of_percent_remaining_is_the_papers():
    table = pd.read_csv(PAPER_VALUES)
    shown = table[(table["figure"] == "fig5") & (table["network"] == "resnet20") & (table["method"] == "imp")]
    labels = shown[shown["rewind"] == 500]["percent_remaining"].tolist()
    assert len(labels) == 16
    setting = preset("resnet20").setting
    weights = start(setting)
    mask = Mask({name: torch.ones(weights[name].shape) for name in build(setting).prunable()})
    unpruned = sum(w.numel() for name, w in weights.items() if w.dim() > 1 and name not in mask)
    total = unpruned + mask.size
    for level, label in enumerate(labels):
        percent = 100 * (unpruned + mask.survivors) / total
        assert percent == pytest.approx(100 * (3_200 + 267_696 * 0.8**level) / 270_896, abs=1e-3)
        assert round(percent, 1) == label
        mask = pruner(setting)(weights, mask)


@pytest.mark.parametrize("width", [1.0, 0.5, 0.25, 2.0])
def test_the_width_factor_scales_every_layers_filters(width):
    with torch.device("meta"):
        for network, filters in (("resnet20", [16] * 7 + [32] * 6 + [64] * 6), ("vgg19", [64] * 2 + [128] * 2)):
            model = build(preset(network).setting.updated(width=width))
            parameters = dict(model.named_parameters())
            found = [len(parameters[name]) for name in model.prunable()]
            assert found[: len(filters)] == [width * count for count in filters]
            assert found[-1] == width * {"resnet20": 64, "vgg19": 512}[network]
            assert parameters["output.weight"].shape == (10, found[-1])


@pytest.mark.parametrize("network", ["resnet20", "vgg19"])
def test_a_width_that_leaves_a_layer_without_filters_is_refused(network):
    with pytest.raises(SettingError, match="width"):
        build(preset(network).setting.updated(width=0.005))


@pytest.mark.parametrize("side", [32, 16, 8])
@NETWORKS
def test_images_of_every_size_give_ten_logits(setting, side):
    model = build(setting).eval()
    images = noise(3, side)
    before = images.clone()
    logits = model(images)
    assert (logits.shape, logits.dtype) == ((3, 10), torch.float32)
    assert torch.equal(images, before)


# Arithmetic


def conv_norm(w: State, name: str, x: Tensor, stride: int, batch_statistics: bool) -> Tensor:
    kernel, norm = w[f"{name}.0.weight"], f"{name}.1"
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    mean, variance = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
    return F.batch_norm(x, mean, variance, w[f"{norm}.weight"], w[f"{norm}.bias"], batch_statistics)


def standardised(images: Tensor) -> Tensor:
    mean, deviation = torch.tensor([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]]).double()[..., None, None]
    return (images.double() / 255 - mean) / deviation


def resnet20(w: State, images: Tensor, batch_statistics: bool = False) -> Tensor:
    x = F.relu(conv_norm(w, "stem", standardised(images), 1, batch_statistics))
    for block in range(9):
        halves = block in (3, 6)
        y = F.relu(conv_norm(w, f"blocks.{block}.first", x, 2 if halves else 1, batch_statistics))
        y = conv_norm(w, f"blocks.{block}.second", y, 1, batch_statistics)
        x = F.relu(y + (conv_norm(w, f"blocks.{block}.shortcut", x, 2, batch_statistics) if halves else x))
    return F.linear(x.mean((2, 3)), w["output.weight"], w["output.bias"])


def vgg19(w: State, images: Tensor) -> Tensor:
    x = standardised(images)
    for stage, repeats in enumerate((2, 2, 4, 4, 4)):
        if stage and x.shape[2] > 1:
            x = F.max_pool2d(x, 2)
        for position in range(repeats):
            x = F.relu(conv_norm(w, f"stages.{stage}.{2 * position}", x, 1, False))
    return F.linear(x.mean((2, 3)), w["output.weight"], w["output.bias"])


def doubled(state: State) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}


@pytest.mark.parametrize("side", [32, 8])
@pytest.mark.parametrize(
    ("setting", "reference"),
    [(preset("resnet20").setting, resnet20), (RESNET, resnet20), (preset("vgg19").setting.updated(width=0.125), vgg19)],
    ids=["resnet20", "narrow resnet20", "narrow vgg19"],
)
def test_in_evaluation_the_logits_are_those_of_double_precision(setting, reference, side):
    weights = start(setting)
    chance = torch.Generator().manual_seed(6)
    for name, tensor in weights.items():  # statistics and biases that are not those of a fresh network
        if name.endswith(("running_mean", ".bias")):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=chance))
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=chance))
    model = build(setting).eval()
    model.load_state_dict(weights)
    expected = reference(doubled(weights), noise(4, side))
    assert expected.std() > 0.01
    logits = model(noise(4, side)).detach().double()
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


# Initialisation


@pytest.mark.parametrize(
    "setting", [preset("resnet20").setting, preset("vgg19").setting.updated(width=0.25)], ids=["resnet20", "vgg19"]
)
def test_initial_weights_are_kaiming_normal_and_batch_norm_is_fresh(setting):
    weights = start(setting)
    kernels = {name: w for name, w in weights.items() if w.dim() > 1}
    assert len(kernels) == {"resnet20": 22, "vgg19": 17}[setting.network]
    for name, kernel in kernels.items():
        drawn = kernel.double().flatten() / math.sqrt(2 / kernel[0].numel())
        assert abs(float(drawn.mean())) < 4.5 / math.sqrt(len(drawn)), name
        assert abs(float(drawn.std()) - 1) < 4.5 / math.sqrt(2 * len(drawn)), name
    every = torch.cat([w.flatten() / math.sqrt(2 / w[0].numel()) for w in kernels.values()]).double()
    assert float((every**4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / len(every)))  # as a Gaussian's
    scales = torch.cat([w for name, w in weights.items() if name.endswith(".weight") and w.dim() == 1]).double()
    assert 0 <= scales.min() < 0.02
    assert 0.98 < scales.max() <= 1
    assert float(scales.mean()) == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / len(scales)))
    fresh = {"bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    for name, tensor in weights.items():
        kind = name.rsplit(".", 1)[1]
        assert kind == "weight" or bool((tensor == fresh[kind]).all()), name


@NETWORKS
def test_initialising_again_gives_the_same_weights_and_fresh_statistics(setting):
    model = build(setting)
    model(noise(8, 8))  # in training mode: this moves the running statistics
    model.initialise(seeds.stream(1, "init"))
    assert same_bits(model.state_dict(), start(setting))
    other = initial_weights(setting, seeds.stream(2, "init"))
    assert all(not torch.equal(other[name], weight) for name, weight in start(setting).items() if weight.dim() > 1)


@NETWORKS
def test_batch_norm_scales_of_one_leave_every_other_initial_weight_as_it_was(setting):
    uniform, one = start(setting), start(setting.updated(batch_norm_scale="one"))
    scales = {name for name, weight in uniform.items() if name.endswith("weight") and weight.dim() == 1}
    drawn = torch.cat([uniform[name] for name in sorted(scales)])
    assert len(scales) == {"resnet20": 21, "vgg19": 16}[setting.network]
    assert 0 <= drawn.min() < drawn.max() < 1
    for name in uniform:
        expected = torch.ones_like(uniform[name]) if name in scales else uniform[name]
        assert torch.equal(one[name], expected), name


# The learning rate


STANDARD, WARMUP = preset("resnet20").setting, preset("resnet20", "warmup").setting
DEEP, DEEP_WARMUP = preset("vgg19").setting, preset("vgg19", "warmup").setting


@pytest.mark.parametrize(
    ("setting", "iteration", "expected"),
    [
        *((STANDARD, i, 0.1) for i in (0, 1, 19_999)),
        *((STANDARD, i, 0.01) for i in (20_000, 20_001, 24_999)),
        *((STANDARD, i, 0.001) for i in (25_000, 25_001, 29_999)),
        *((preset("resnet20", "low").setting, i, rate) for i, rate in ((0, 0.01), (19_999, 0.01), (20_000, 1e-3))),
        *((WARMUP, i, rate) for i, rate in ((0, 0.0), (1, 1.5e-6), (10_000, 0.015), (19_999, 0.0299985))),
        *((WARMUP, i, rate) for i, rate in ((20_000, 0.003), (20_001, 0.003), (24_999, 0.003), (25_000, 3e-4))),
        *((DEEP, i, rate) for i, rate in ((0, 0.1), (55_999, 0.1), (56_000, 0.01), (83_999, 0.01), (84_000, 1e-3))),
        *((DEEP_WARMUP, i, rate) for i, rate in ((0, 0.0), (1, 1e-5), (9_999, 0.09999), (10_000, 0.1))),
        *((DEEP_WARMUP, i, rate) for i, rate in ((10_001, 0.1), (55_999, 0.1), (56_000, 0.01), (84_000, 1e-3))),
        *((preset("lenet_300_100").setting, i, 1.2e-3) for i in (0, 1, 49_999)),
        *((STANDARD.updated(warmup=1), i, 0.1) for i in (1, 2)),
        (STANDARD.updated(warmup=1), 0, 0.0),
    ],
)
def test_learning_rates_are_those_computed_by_hand(setting, iteration, expected):
    assert learning_rate(setting, iteration) == pytest.approx(expected, rel=1e-9)


# One update


Batches = list[tuple[Tensor, Tensor, float]]
"""Images, labels and the learning rate of each update."""


def by_double_precision(
    setting: Setting, weights: State, mask: Mask, batches: Batches
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Updates by torch.optim on a straight-line network, the gradient masked; the last gradients and the state."""
    w = doubled(weights)
    names = {name for name, _ in build(setting).named_parameters()}
    keep = {name: mask[name].double() if name in mask else torch.ones_like(w[name]) for name in names}
    for name in names:
        w[name] = (w[name] * keep[name]).requires_grad_()
    convolutions = {name for name in names if w[name].dim() == 4}
    decayed = convolutions if setting.weight_decay_on == "convolutions" else names
    groups = [
        {"params": [w[name] for name in sorted(decayed)], "weight_decay": setting.weight_decay},
        {"params": [w[name] for name in sorted(names - decayed)], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(groups, setting.learning_rate, setting.momentum)
    for images, labels, rate in batches:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        F.cross_entropy(resnet20(w, images, batch_statistics=True), labels).backward()
        for name in names:
            w[name].grad *= keep[name]
        optimiser.step()
    return {name: w[name].grad for name in names}, {name: tensor.detach() for name, tensor in w.items()}


def flattened(tensors: Mapping[str, Tensor], setting: Setting) -> Tensor:
    """Parameters as one vector, in the network's order, every filter with its channels last."""
    named = [tensors[name] for name, _ in build(setting).named_parameters()]
    return torch.cat([t.permute(0, 2, 3, 1).flatten() if t.dim() == 4 else t.flatten() for t in named])


DECAYED = RESNET.updated(weight_decay=0.05)


def batches_of(count: int) -> Batches:
    return [(noise(16, 8, seed), (torch.arange(16) + seed) % 10, 0.05) for seed in range(count)]


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_masked_updates_are_those_of_torch_optim_in_double_precision(density):
    mask = sparse(DECAYED, density)
    network = FlatNetwork(build(DECAYED).train(), mask, DECAYED)
    network.load(start(DECAYED))
    for batch in batches_of(3):
        network.update(*batch)
    got, before = network.state(), doubled(start(DECAYED))
    gradients, expected = by_double_precision(DECAYED, start(DECAYED), mask, batches_of(3))
    for name, tensor in expected.items():
        moved = (tensor - before[name]).abs().max()
        assert moved > 1e-3, name
        assert (got[name].double() - tensor).abs().max() < 1e-4 * moved + 1e-6, name
    for name, gradient in gradients.items():
        assert (network.gradients[name].double() - gradient).abs().max() < 1e-4 * gradient.abs().max() + 1e-6, name
    torch.testing.assert_close(network.gradient, flattened(gradients, DECAYED).float(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("width", [0.0625, 0.25, 0.375, 0.5, 1.0])
def test_gradients_are_right_at_every_width(width):
    """oneDNN's kernel for a strided 1x1 convolution writes wrong gradients, and beyond its memory, for few channels."""
    setting = RESNET.updated(width=width)
    network = FlatNetwork(build(setting).train(), ones(setting), setting)
    batch = (noise(32, 32), torch.arange(32) % 10, 0.0)
    for _ in range(3):
        network.load(start(setting))
        network.update(*batch)
    gradients, _ = by_double_precision(setting, start(setting), ones(setting), [batch])
    for name, gradient in gradients.items():
        assert (network.gradients[name].double() - gradient).norm() < 0.02 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_where_convolutions_alone_decay_updates_are_those_of_torch_optim_with_two_groups(density):
    setting = DECAYED.updated(weight_decay_on="convolutions")
    mask = sparse(setting, density)
    network = FlatNetwork(build(setting).train(), mask, setting)
    network.load(start(setting))
    for batch in batches_of(3):
        network.update(*batch)
    got, before = network.state(), doubled(start(setting))
    expected = by_double_precision(setting, start(setting), mask, batches_of(3))[1]
    everywhere = by_double_precision(DECAYED, start(setting), mask, batches_of(3))[1]
    for name, tensor in expected.items():
        moved = (tensor - before[name]).abs().max()
        assert (got[name].double() - tensor).abs().max() < 1e-4 * moved + 1e-6, name
    for name in ("output.weight", "stem.1.weight"):  # which decay, or do not, by far more than rounding
        assert (everywhere[name] - expected[name]).abs().max() > 1e-3, name
    for name, kept in mask.items():
        assert not got[name][~kept].any()


def test_weight_decay_is_part_of_an_update():
    ends = []
    for setting in (DECAYED, RESNET.updated(weight_decay=0.0)):
        network = FlatNetwork(build(setting).train(), ones(setting), setting)
        network.load(start(setting))
        network.update(*batches_of(1)[0])
        ends.append(flattened(network.state(), setting))
    expected = -0.05 * 0.05 * flattened(start(RESNET), RESNET)  # learning rate times decay times weight
    torch.testing.assert_close(ends[0] - ends[1], expected, rtol=1e-3, atol=1e-6)


@NETWORKS
def test_the_flat_vectors_hold_weights_gradients_and_mask_in_one_order(setting):
    mask = sparse(setting)
    network = FlatNetwork(build(setting).train(), mask, setting)
    network.load(start(setting))
    everything = {name: mask.get(name, torch.ones(p.shape)).float() for name, p in network.model.named_parameters()}
    assert torch.equal(network.mask, flattened(everything, setting))
    masked = {name: tensor * everything.get(name, 1) for name, tensor in start(setting).items()}
    assert torch.equal(network.weights, flattened(masked, setting))
    network.update(*batches_of(1)[0])
    assert torch.equal(network.gradient, flattened(network.gradients, setting))
    assert torch.equal(network.weights, flattened(network.state(), setting))
    for name, kept in mask.items():
        assert not network.gradients[name][~kept].any()
        if setting is RESNET:
            assert network.gradients[name][kept].any()
    for name, parameter in network.model.named_parameters():
        assert network.gradients[name].untyped_storage().data_ptr() == network.gradient.untyped_storage().data_ptr()
        assert network.gradients[name].stride() == parameter.stride()
        assert parameter.dim() != 4 or parameter.is_contiguous(memory_format=torch.channels_last)


@NETWORKS
def test_a_state_loads_into_a_plain_network_and_back_into_a_flat_one(setting):
    network = FlatNetwork(build(setting).train(), ones(setting), setting)
    network.load(start(setting))
    for batch in batches_of(2):
        network.update(*batch)
    state = network.state()
    plain = build(setting).eval()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("optimizer.")})
    assert not any(p.is_contiguous(memory_format=torch.channels_last) for p in plain.parameters() if p.numel() > 2_000)
    images = noise(8, 8)
    torch.testing.assert_close(plain(images), network.model.eval()(images), rtol=1e-4, atol=1e-4)
    other = FlatNetwork(build(setting), ones(setting), setting)
    other.load(state)
    assert same_bits(other.state(), state)
    assert torch.equal(other.weights, network.weights)


def test_a_state_is_a_copy_that_later_updates_do_not_reach():
    network = FlatNetwork(build(RESNET).train(), ones(RESNET), RESNET)
    network.load(start(RESNET))
    state = network.state()
    network.update(*batches_of(1)[0])
    assert all(torch.equal(state[name], tensor) for name, tensor in start(RESNET).items())


# Training


def examples(count: int, seed: int) -> Split:
    return Split(noise(count, 8, seed), torch.arange(count) % 10)


@pytest.fixture(scope="module")
def images() -> Dataset:
    """Five batches of 32 and a few images more."""
    return Dataset("noise", examples(167, 1), examples(40, 2), examples(40, 3))


def ticket(setting: Setting, mask: Mask) -> Ticket:
    return subnetwork(start(setting), mask, 0, 0)


def finished(setting: Setting, images: Dataset, **options: Any) -> Trained:
    return train(setting, images, ticket(setting, sparse(setting)), replicate=1, order=0, **options)


@pytest.fixture(scope="module")
def uninterrupted(images: Dataset) -> dict[str, Trained]:
    return {setting.network: finished(setting, images) for setting in (RESNET, VGG)}


@pytest.mark.parametrize("threads", [1, 2])
@NETWORKS
def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(setting, threads, uninterrupted, images):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = finished(setting, images)
    finally:
        torch.set_num_threads(before)
    assert same_bits(again.state, uninterrupted[setting.network].state)
    assert again.metrics == uninterrupted[setting.network].metrics


def test_another_replicate_and_another_order_give_other_weights(uninterrupted, images):
    first = ticket(RESNET, sparse(RESNET))
    for replicate, order in ((2, 0), (1, 1)):
        other = train(RESNET, images, first, replicate=replicate, order=order)
        assert not torch.equal(other.state["stem.0.weight"], uninterrupted["resnet20"].state["stem.0.weight"])


@pytest.mark.parametrize(
    ("setting", "stop"),
    [*((RESNET, stop) for stop in range(12)), *((VGG, stop) for stop in (1, 5, 7))],
    ids=lambda value: getattr(value, "network", None),
)
def test_stopped_at_any_iteration_and_resumed_gives_the_same_bits(setting, stop, uninterrupted, images, tmp_path):
    folder, asked = TrainingFolder(tmp_path), StopAt()
    with pytest.raises(Stopped):
        finished(setting, images, saves=folder, stop_requested=StopAt(stop))
    resumed = finished(setting, images, saves=folder, stop_requested=asked)
    assert asked.calls == 12 - stop
    assert same_bits(resumed.state, uninterrupted[setting.network].state)
    assert resumed.metrics == uninterrupted[setting.network].metrics


@NETWORKS
def test_pruned_weights_and_their_momentum_are_zero_after_every_update(setting, images):
    setting = setting.updated(weight_decay=0.05)
    mask, kept = sparse(setting), Kept()
    end = finished(setting, images, keep=range(12), saves=kept)
    assert sorted(kept.states) == list(range(12))
    shapes = {name: p.shape for name, p in build(setting).named_parameters()}
    pruned = {n: ~mask[n] if n in mask else torch.zeros(s, dtype=torch.bool) for n, s in shapes.items()}
    flat = flattened(pruned, setting)
    for state in (*kept.states.values(), end.state):
        assert not any(state[name][where].any() for name, where in pruned.items())
        assert not state["optimizer.momentum_buffer"][flat].any()
    assert (end.state["optimizer.momentum_buffer"][~flat] != 0).double().mean() > 0.9
    for name, kept_weights in mask.items():
        assert (end.state[name] != start(setting)[name])[kept_weights].double().mean() > 0.9


@pytest.mark.parametrize("k", [1, 4, 5, 9])
@NETWORKS
def test_w_k_under_a_mask_of_ones_repeats_the_dense_run_in_t_minus_k_iterations(setting, k, images):
    kept, asked = Kept(), StopAt()
    dense = train(setting, images, ticket(setting, ones(setting)), replicate=1, order=0, keep=[k], saves=kept)
    rewound = subnetwork(kept.states[k], ones(setting), k, 1)
    again = train(setting, images, rewound, replicate=1, order=0, stop_requested=asked)
    assert asked.calls == 12 - k
    assert same_bits(again.state, dense.state)
    assert again.metrics == dense.metrics


def test_the_first_update_of_a_warmup_moves_statistics_and_momentum_alone(images):
    first = train(RESNET, images, ticket(RESNET, ones(RESNET)), replicate=1, order=0, stop=1).state
    for name, tensor in start(RESNET).items():
        statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(first[name], tensor) != statistic, name
    assert first["optimizer.momentum_buffer"].any()


class Updates:
    """What a training hands to its updates, none of which is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.rates: list[float] = []

        def update(network: FlatNetwork, images: Tensor, labels: Tensor, rate: float) -> None:
            self.batches.append((images.clone(), labels.clone()))
            self.rates.append(rate)

        monkeypatch.setattr(FlatNetwork, "update", update)


def test_a_late_start_takes_up_the_schedule_where_it_is(images, monkeypatch):
    updates = Updates(monkeypatch)
    late = subnetwork(start(RESNET), ones(RESNET), 4, 1)
    train(RESNET, images, late, replicate=1, order=0)
    assert updates.rates == pytest.approx([0.015, 0.01875, 0.0225, 0.02625, 0.003, 0.003, 0.0003, 0.0003])


def one_by_one(split: Split, example: int, shift: Tensor, flip: bool) -> Tensor:
    top, left = shift.tolist()
    cropped = TF.crop(TF.pad(split.images[example], [4, 4, 4, 4]), top, left, 8, 8)
    return TF.hflip(cropped) if flip else cropped


@pytest.mark.parametrize("begin", [0, 3, 5])
def test_every_example_is_cropped_and_mirrored_by_its_epochs_own_draws(begin, images, monkeypatch):
    updates = Updates(monkeypatch)
    train(RESNET, images, subnetwork(start(RESNET), ones(RESNET), begin, 0), replicate=3, order=2)
    assert len(updates.batches) == 12 - begin
    for iteration, (batch, labels) in enumerate(updates.batches, begin):
        epoch, position = divmod(iteration, 5)
        chosen = seeds.epoch_order(3, 2, epoch, 167)[32 * position : 32 * position + 32].tolist()
        shifts, flips = seeds.epoch_augmentation(3, 2, epoch, 167)
        expected = [one_by_one(images.train, example, shifts[example], bool(flips[example])) for example in chosen]
        assert torch.equal(batch, torch.stack(expected))
        assert torch.equal(labels, images.train.labels[chosen])


def test_without_augmentation_the_images_are_as_they_are(images, monkeypatch):
    updates = Updates(monkeypatch)
    train(RESNET.updated(augment=False), images, ticket(RESNET, ones(RESNET)), replicate=1, order=0, stop=2)
    order = seeds.epoch_order(1, 0, 0, 167)
    assert torch.equal(torch.cat([batch for batch, _ in updates.batches]), images.train.images[order[:64]])


def test_augmentation_leaves_the_images_of_the_data_set_alone(images):
    before = images.fingerprint()
    finished(RESNET, images)
    assert images.fingerprint() == before


@NETWORKS
def test_a_diverged_training_says_so_and_has_no_metrics(setting, images):
    trained = finished(setting.updated(learning_rate=1e30, warmup=0, drops=()), images)
    assert trained.diverged_at is not None
    assert trained.metrics == {}


def test_validation_and_test_images_do_not_touch_the_weights(uninterrupted, images):
    other = Dataset("other", images.train, examples(40, 8), examples(40, 9))
    assert same_bits(finished(RESNET, other).state, uninterrupted["resnet20"].state)


def test_a_resnet20_learns(images):
    train_images = noise(320, 8, 7) // 4
    labels = torch.arange(320) % 10
    for position, label in enumerate(labels.tolist()):  # a bright square at a place of the label's own
        train_images[position, :, 2 * (label % 4) : 2 * (label % 4) + 2, 2 * (label // 4) : 2 * (label // 4) + 2] = 255
    split = Split(train_images, labels)
    setting = preset("resnet20", profile="smoke").setting.updated(iterations=60, drops=(40, 50), augment=False)
    trained = train(
        setting, Dataset("squares", split, split, split), ticket(setting, ones(setting)), replicate=1, order=0
    )
    assert trained.metrics["test_accuracy"] > 60


# Whole studies


class Done(NamedTuple):
    """A finished study: its store, its records, and the tickets that it trained."""

    setting: Setting
    folder: Path
    records: pd.DataFrame
    trained: list[Ticket]

    def result(self, training: str) -> dict[str, Any]:
        return json.loads((self.folder / "replicate_1" / training / "result.json").read_text())

    def end(self, training: str) -> dict[str, Tensor]:
        return TrainingFolder(self.folder / "replicate_1" / training).load_end()

    def mask(self, training: str) -> Mask:
        return TrainingFolder(self.folder / "replicate_1" / training).load_mask()


def few(dataset: Dataset) -> Dataset:
    parts = ((dataset.train, 400), (dataset.validation, 50), (dataset.test, 50))
    return Dataset(dataset.name, *(Split(part.images[:count], part.labels[:count]) for part, count in parts))


def studied(setting: Setting, folder: Path, dataset: Dataset) -> Done:
    """A study on a few of the embedded images, which go through the colouring and the reduction of all images."""
    trained: list[Ticket] = []

    def counted(setting: Setting, dataset: Dataset, ticket: Ticket, **options: Any) -> Trained:
        trained.append(ticket)
        return train(setting, dataset, ticket, **options)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LTH_RESULTS", str(folder / "results"))
        monkeypatch.setattr(mnist, "load_embedded", lambda: few(dataset))
        monkeypatch.setattr(worker, "train", counted)
        records = run(setting, store=folder, workers=1)
    return Done(setting, folder / setting.name, records, trained)


@pytest.fixture(scope="module", params=["resnet20", "vgg19"])
def smoke(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, embedded_mnist: Dataset) -> Done:
    """The whole smoke profile, done once; not to be changed."""
    setting = preset(request.param, "warmup", "smoke").setting
    return studied(setting, tmp_path_factory.mktemp(request.param), embedded_mnist)


def few_images(setting: Setting, embedded_mnist: Dataset) -> Dataset:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(mnist, "load_embedded", lambda: few(embedded_mnist))
        return data.load("mnist_embedded", color=True, size=setting.image_size)


SIZES = {"resnet20": 16_812, "vgg19": 78_300}


def test_global_pruning_keeps_exactly_as_many_weights_as_the_rate_says(smoke):
    survivors = [SIZES[smoke.setting.network]]
    for _ in range(2):
        survivors.append(survivors[-1] - round(0.2 * survivors[-1]))
    assert set(smoke.records["level"]) == {0, 1, 2}
    for level, kept in enumerate(survivors):
        found = smoke.records[smoke.records["level"] == level]["density"]
        assert (found == float(f"{kept / survivors[0]:.7g}")).all()  # as it is in files


def test_every_method_is_recorded_at_both_rewinds(smoke):
    accuracies = smoke.records[smoke.records["metric"] == "test_accuracy"]
    assert len(accuracies) == 13
    assert accuracies["value"].between(0, 100).all()
    assert set(accuracies["method"]) == {"dense", "imp", "random_pruning", "random_reinit"}
    floor = smoke.records[smoke.records["metric"].str.endswith("noise_floor")]
    assert (len(floor), set(floor["value"])) == (2, {0.0})


def test_the_first_ticket_keeps_the_largest_weights_of_all_layers_together(smoke):
    end = smoke.end("dense")
    for rewind in (0, 4):
        mask = smoke.mask(f"imp/rewind_{rewind}/level_01/order_0")
        kept = torch.cat([end[name][mask[name]].abs() for name in mask])
        pruned = torch.cat([end[name][~mask[name]].abs() for name in mask])
        assert kept.min() >= pruned.max()
        assert len(set(mask.density_by_layer().values())) > 2


def test_random_pruning_keeps_as_many_weights_in_every_layer_but_others(smoke):
    for rewind in (0, 4):
        imp, random, reinit = (
            smoke.mask(f"{method}/rewind_{rewind}/level_02/order_0")
            for method in ("imp", "random_pruning", "random_reinit")
        )
        assert reinit == imp
        assert random.density_by_layer() == imp.density_by_layer()
        assert all(bool((random[name] != imp[name]).any()) for name in imp if imp.density_by_layer()[name] < 1)


def test_everything_is_rewound_bit_for_bit_but_the_pruned_weights(smoke, embedded_mnist):
    setting = smoke.setting
    images = few_images(setting, embedded_mnist)
    w_0 = start(setting)
    w_4 = train(setting, images, ticket(setting, ones(setting)), replicate=1, order=0, stop=4).state
    assert all(count == 4 for name, count in w_4.items() if name.endswith("num_batches_tracked"))
    tickets = [t for t in smoke.trained if t.level and not (t.iteration == 0 and is_reinit(t, setting))]
    assert {(t.iteration, t.level) for t in tickets} == {(0, 1), (0, 2), (4, 1), (4, 2)}
    for rewound in tickets:
        w_k = w_4 if rewound.iteration else w_0
        assert rewound.weights.keys() == w_k.keys()
        for name, tensor in w_k.items():
            kept = rewound.mask.get(name, torch.ones((), dtype=torch.bool))
            assert torch.equal(rewound.weights[name], tensor * kept), name


def is_reinit(rewound: Ticket, setting: Setting) -> bool:
    return torch.equal(rewound.weights["output.weight"], fresh(setting)["output.weight"])


def fresh(setting: Setting) -> dict[str, Tensor]:
    return initial_weights(setting, seeds.stream(1, "reinit"))


def test_a_reinitialised_ticket_is_fresh_and_trains_in_full(smoke):
    reinitialised = [t for t in smoke.trained if is_reinit(t, smoke.setting)]
    assert len(reinitialised) == 2
    for control in reinitialised:
        masked = {n: w * control.mask[n] if n in control.mask else w for n, w in fresh(smoke.setting).items()}
        assert same_bits(control.weights, masked)
        assert control.iteration == 0


def test_every_training_runs_from_its_rewind_to_the_end(smoke):
    files = sorted(smoke.folder.rglob("result.json"))
    assert len(files) == len(smoke.trained) == 14
    for file in files:
        late = "rewind_4" in str(file) and "random_reinit" not in str(file)
        assert json.loads(file.read_text())["provenance"]["iterations"] == (8 if late else 12), file


def test_pruned_weights_are_zero_at_the_end_of_every_training(smoke):
    for file in smoke.folder.rglob("end.safetensors"):
        folder = TrainingFolder(file.parent)
        end, mask = folder.load_end(), folder.load_mask()
        assert not any(end[name][~mask[name]].any() for name in mask)


def test_a_stopped_study_goes_on_to_the_same_bits(smoke, tmp_path, embedded_mnist, monkeypatch):
    monkeypatch.setattr(mnist, "load_embedded", lambda: few(embedded_mnist))
    whole = smoke.setting
    part = whole.updated(levels=1, methods=("imp",), orders=1, compared_levels=())
    with pytest.raises(Stopped):
        run(part, store=tmp_path, workers=1, seconds=0)
    run(part, store=tmp_path, workers=1)
    again = Done(part, tmp_path / part.name, smoke.records, [])
    for name in ("dense", "imp/rewind_4/level_01/order_0"):
        assert same_bits(again.end(name), smoke.end(name))


SHORT = preset("resnet20", profile="smoke").setting.updated(levels=1, orders=1, methods=("imp",), compared_levels=())


def test_a_fresh_optimiser_matters_after_iteration_0_and_not_at_it(tmp_path, embedded_mnist):
    restored, reset = (
        studied(SHORT.updated(rewind_optimizer=choice), tmp_path / choice, embedded_mnist)
        for choice in ("restored", "fresh")
    )
    ends = {k: [done.end(f"imp/rewind_{k}/level_01/order_0") for done in (restored, reset)] for k in (0, 4)}
    assert same_bits(*ends[0])
    assert not torch.equal(ends[4][0]["stem.0.weight"], ends[4][1]["stem.0.weight"])
    for done, has in ((restored, True), (reset, False)):
        (late,) = (t for t in done.trained if t.iteration == 4)
        assert ("optimizer.momentum_buffer" in late.weights) == has
        assert int(late.weights["stem.1.num_batches_tracked"]) == 4


def test_a_reinitialised_ticket_can_train_for_what_remains_after_the_rewind(tmp_path, embedded_mnist):
    setting = SHORT.updated(methods=("random_reinit",), compared_levels=(1,), reinit_length="remaining")
    done = studied(setting, tmp_path, embedded_mnist)
    reinitialised = [t for t in done.trained if is_reinit(t, setting)]
    assert [t.iteration for t in reinitialised] == [0, 4]
    assert all("optimizer.momentum_buffer" not in t.weights for t in reinitialised)
    for rewind, iterations in ((0, 12), (4, 8)):
        result = done.result(f"random_reinit/rewind_{rewind}/level_01/order_0")
        assert result["provenance"]["iterations"] == iterations
    images = few_images(setting, embedded_mnist)
    expected = dict(train(setting, images, reinitialised[1], replicate=1, order=0).state)
    del expected["optimizer.momentum_buffer"]  # which the end of a training is kept without
    assert same_bits(done.end("random_reinit/rewind_4/level_01/order_0"), expected)


def test_a_study_trains_on_the_images_in_colour_and_reduced(smoke, embedded_mnist):
    images = few_images(smoke.setting, embedded_mnist)
    assert images.train.images.shape == (400, 3, 8, 8)
    files = [json.loads(file.read_text())["provenance"] for file in smoke.folder.rglob("result.json")]
    assert {provenance["data_fingerprint"] for provenance in files} == {images.fingerprint()}
