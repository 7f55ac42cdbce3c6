"""The networks: sizes as in the paper, initial weights, prunable layers, and LeNet's gradient by hand."""

import math
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import PROJECT
from torch import Tensor, nn
from torch.nn import functional as F

from lth_core import Mask
from lth_study import SettingError, preset, seeds
from lth_study.networks import build, initial_weights
from lth_study.networks.imagenet import ImageNetNetwork
from lth_study.networks.lenet import LeNet300100
from lth_study.networks.network import Network
from lth_study.settings import Setting
from lth_study.training.train import pruner

SMALL = {"lenet_300_100": {}, "resnet20": {}, "vgg19": {"width": 0.25}, "squeezenet1_0": {}}
"""Networks that are quick to draw."""


def settings(network: str, profile: str = "paper", **changes: Any) -> Setting:
    return preset(network, profile=profile).setting.updated(**changes)


def on_meta(network: str, profile: str = "paper", **changes: Any) -> Network:
    with torch.device("meta"):
        return build(settings(network, profile, **changes))


def start(setting: Setting, replicate: int = 1) -> dict[str, Tensor]:
    return initial_weights(setting, seeds.stream(replicate, "init"))


# Sizes


@pytest.mark.parametrize(
    ("network", "parameters", "prunable"),
    [
        ("lenet_300_100", 266_610, 266_200),
        ("resnet20", 274_042 - 1_568, 267_696),  # the paper counts the 1,568 statistics of batch norm too
        ("vgg19", 20_018_880 + 2 * (2 * 64 + 2 * 128 + 4 * 256 + 8 * 512) + 5_130, 20_018_880),
        ("resnet50", 25_557_032, 23_454_912),
        ("inception_v3", 27_161_264, 21_751_136),
        ("squeezenet1_0", 1_248_424, 732_448),
    ],
)
def test_parameters_are_as_many_as_in_the_paper(network: str, parameters: int, prunable: int):
    model = on_meta(network)
    named = dict(model.named_parameters())
    assert sum(p.numel() for p in named.values()) == parameters
    assert sum(named[name].numel() for name in model.prunable()) == prunable
    assert {named[name].dim() for name in model.prunable()} == {2 if network == "lenet_300_100" else 4}
    assert not any("AuxLogits" in name for name in model.prunable())


def test_resnet20s_axis_of_percent_remaining_is_the_papers():
    table = pd.read_csv(PROJECT / "results" / "paper_values.csv")
    shown = table[(table["figure"] == "fig5") & (table["network"] == "resnet20") & (table["method"] == "imp")]
    labels = shown[shown["rewind"] == 500]["percent_remaining"].tolist()
    assert len(labels) == 16
    setting = settings("resnet20")
    weights, mask = start(setting), Mask.ones(build(setting))
    for label in labels:  # with the 3,200 weights of shortcuts and output layer, which are not pruned
        assert round(100 * (3_200 + mask.survivors) / (3_200 + 267_696), 1) == label
        mask = pruner(setting)(weights, mask)


@pytest.mark.parametrize("width", [1.0, 0.25, 2.0])
@pytest.mark.parametrize(
    ("network", "filters"),
    [("resnet20", [16] * 7 + [32] * 6 + [64] * 6), ("vgg19", [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8)],
)
def test_the_width_factor_scales_the_filters_of_every_layer(network: str, filters: list[int], width: float):
    model = on_meta(network, width=width)
    parameters = dict(model.named_parameters())
    assert [len(parameters[name]) for name in model.prunable()] == [width * count for count in filters]
    assert parameters["output.weight"].shape == (10, width * filters[-1])


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_a_narrow_resnet_50_has_narrow_bottlenecks_and_as_many_channels_between_them(width: float):
    model = on_meta("resnet50", "smoke", width=width)
    expected, before = 7 * 7 * 3 * 64, 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        inner, after = round(planes * width), 4 * planes
        for block in range(blocks):
            expected += before * inner + 9 * inner**2 + inner * after + (before * after if block == 0 else 0)
            before = after
    named = dict(model.named_parameters())
    assert sum(named[name].numel() for name in model.prunable()) == expected


@pytest.mark.parametrize("width", [1 / 16, 0.5])
def test_a_narrow_inception_v3_has_every_layer_of_the_whole_one_narrower(width: float):
    with torch.device("meta"):
        whole, narrow = (ImageNetNetwork("inception_v3", auxiliary=True, width=factor) for factor in (1.0, width))
    shapes = {name: list(parameter.shape) for name, parameter in whole.named_parameters()}
    for name, shape in shapes.items():
        fixed_inputs = name == "body.Conv2d_1a_3x3.conv.weight"
        outputs = shape[0] if ".fc." in name else width * shape[0]
        inputs = [] if len(shape) == 1 else [shape[1] if fixed_inputs else width * shape[1]]
        shapes[name] = [outputs, *inputs, *shape[2:]]
    assert {name: list(parameter.shape) for name, parameter in narrow.named_parameters()} == shapes


@pytest.mark.parametrize(
    ("network", "output", "dropout"),
    [
        ("resnet50", "body.fc.weight", []),
        ("inception_v3", "body.fc.weight", [0.5]),
        ("squeezenet1_0", "body.classifier.1.weight", [0.5]),
    ],
)
def test_the_output_layer_is_pruned_where_that_is_asked_for_and_half_of_the_units_before_it_are_dropped(
    network: str, output: str, dropout: list[float]
):
    left, pruned = (on_meta(network, "smoke", prune_output=yes) for yes in (False, True))
    assert set(pruned.prunable()) - set(left.prunable()) == {output}
    assert [module.p for module in on_meta(network).modules() if isinstance(module, nn.Dropout)] == dropout


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        ("resnet20", {"width": 0.005}, "width: 0.005 leaves layers of resnet20 without filters"),
        ("vgg19", {"width": 0.005}, "width: 0.005 leaves layers of vgg19 without filters"),
        ("squeezenet1_0", {"image_size": 20}, "image_size: 20 is too small for squeezenet1_0; choose 21 or more"),
        ("inception_v3", {"image_size": 74}, "image_size: 74 is too small for inception_v3; choose 75 or more"),
        ("inception_v3", {"auxiliary_loss": 0.4}, "75 is too small for inception_v3 and its auxiliary head"),
        ("resnet50", {"auxiliary_loss": 0.4}, "auxiliary_loss: 0.4 is not a setting of resnet50"),
        ("squeezenet1_0", {"width": 0.5}, "width: 0.5 is not a setting of squeezenet1_0"),
        ("inception_v3", {"width": 0.3}, "width: 0.3 must be a multiple of 1/16 for inception_v3"),
        ("resnet50", {"densities": (0.5, 1.5)}, r"densities: \[0.5, 1.5\] must be fractions to keep"),
        ("resnet20", {"pieces": 33}, "pieces: 33 is more than the 32 images of a batch"),
        ("resnet20", {"weight_decay": 0.0, "weight_decay_on": "convolutions"}, "_on: .*no effect with weight_decay=0"),
        ("squeezenet1_0", {"drops": (3,)}, r"final_learning_rate: .*drops=\[3\].*one of them"),
    ],
)
def test_settings_that_a_network_cannot_take_are_refused(network: str, changes: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        settings(network, "smoke", **changes)


# Initial weights


def assert_gaussian(drawn: Tensor, name: str) -> None:
    """Mean 0, deviation 1 and fourth moment 3, to 5 standard errors."""
    count = len(drawn)
    assert abs(float(drawn.mean())) < 5 / math.sqrt(count), name
    assert abs(float(drawn.std()) - 1) < 5 / math.sqrt(2 * count), name
    assert abs(float((drawn**4).mean()) - 3) < 5 * math.sqrt(96 / count), name


@pytest.mark.parametrize("network", ["lenet_300_100", "resnet20", "vgg19"])
def test_initial_weights_are_gaussian_and_the_rest_is_fresh(network: str):
    """Glorot's deviation in LeNet, Kaiming's in the others; scales of batch norm uniform in [0, 1]."""
    weights = start(settings(network, **SMALL[network]))
    matrices = {name: w for name, w in weights.items() if w.dim() > 1}
    assert len(matrices) == {"lenet_300_100": 3, "resnet20": 22, "vgg19": 17}[network]
    for name, w in matrices.items():
        inputs, outputs = w[0].numel(), len(w)
        variance = 2 / (inputs + outputs) if network == "lenet_300_100" else 2 / inputs
        assert_gaussian(w.double().flatten() / math.sqrt(variance), name)
    fresh = {"bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    for name, tensor in weights.items():
        kind = name.rsplit(".", 1)[1]
        assert kind == "weight" or bool((tensor == fresh[kind]).all()), name
    if network != "lenet_300_100":
        scales = torch.cat([w for name, w in weights.items() if name.endswith(".weight") and w.dim() == 1]).double()
        assert 0 <= scales.min() < 0.02
        assert 0.98 < scales.max() <= 1
        assert float(scales.mean()) == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / len(scales)))


@pytest.mark.parametrize("network", ["resnet20", "vgg19"])
def test_batch_norm_scales_of_one_leave_every_other_initial_weight_as_it_was(network: str):
    uniform, one = (start(settings(network, "smoke", batch_norm_scale=scale)) for scale in ("uniform", "one"))
    for name, tensor in uniform.items():
        scale = name.endswith("weight") and tensor.dim() == 1
        assert torch.equal(one[name], torch.ones_like(tensor) if scale else tensor), name


@pytest.mark.parametrize("network", SMALL)
def test_initial_weights_depend_on_their_stream_alone(network: str):
    setting = settings(network, "smoke")
    first, other = start(setting), start(setting, replicate=2)
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    model = build(setting)
    side = setting.image_size
    model(torch.zeros(8, 3, side, side, dtype=torch.uint8) if side else torch.zeros(8, 28, 28))  # moves statistics
    torch.manual_seed(5)
    model.initialise(seeds.stream(1, "init"))
    assert torch.rand(3).tolist() == expected
    assert all(torch.equal(tensor, first[name]) for name, tensor in model.state_dict().items())
    assert not any(torch.equal(other[name], weight) for name, weight in first.items() if weight.dim() > 1)


def test_a_narrow_inception_v3_is_initialised_as_the_whole_one_is():
    body = ImageNetNetwork("inception_v3", auxiliary=True, width=0.25)
    body.initialise(torch.Generator().manual_seed(3))
    for name, deviation in (("fc", 0.1), ("AuxLogits.fc", 0.001), ("Mixed_7c.branch1x1.conv", 0.1)):
        assert body.body.get_submodule(name).weight.std().item() == pytest.approx(deviation, rel=0.1)


# LeNet's gradient by hand


def gradients(model: LeNet300100, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """In double precision, by autograd."""
    w = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    x = images.flatten(1).double() / 255
    for layer in ("fc1", "fc2"):
        x = F.relu(F.linear(x, w[f"{layer}.weight"], w[f"{layer}.bias"]))
    F.cross_entropy(F.linear(x, w["output.weight"], w["output.bias"]), labels).backward()
    return {name: weight.grad for name, weight in w.items()}


@pytest.mark.parametrize(("examples", "extreme"), [(60, False), (1, False), (60, True)])
def test_lenets_gradient_by_hand_is_autograds_and_changes_nothing_else(examples: int, extreme: bool):
    """For a single example too, and where units are dead and outputs saturated."""
    model = LeNet300100()
    model.initialise(torch.Generator().manual_seed(1))
    chance = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (examples, 28, 28), generator=chance, dtype=torch.uint8)
    labels = torch.randint(0, 10, (examples,), generator=chance)
    if extreme:
        with torch.no_grad():
            model.fc1.weight[:150] = 0
            model.fc2.weight[50:] = 0
            model.output.weight.mul_(1_000)
    expected = gradients(model, images, labels)
    held = [images, labels, *model.parameters()]
    before = [tensor.clone() for tensor in held]
    written = {name: torch.full_like(p, math.nan) for name, p in model.named_parameters()}
    model.backward(written)(images, labels)
    bounds = {"rtol": 1e-3, "atol": 1e-3} if extreme else {"rtol": 1e-4, "atol": 1e-7}
    for name, gradient in written.items():
        torch.testing.assert_close(gradient.double(), expected[name], **bounds)
    assert all(torch.equal(one, other) for one, other in zip(before, held, strict=True))


@pytest.mark.parametrize("network", SMALL)
def test_images_are_left_as_they_are(network: str):
    for dtype in (torch.uint8, torch.float32):
        images = torch.ones((2, 28, 28) if network == "lenet_300_100" else (2, 3, 32, 32), dtype=dtype)
        build(settings(network, "smoke")).eval()(images)
        assert (images == 1).all()
