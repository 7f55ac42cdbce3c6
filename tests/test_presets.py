"""The settings of ResNet-20 and VGG-19, against the paper's table (its Figure 2, the drops put right)."""

from typing import NamedTuple

import pytest
import torch

from lth_study import ConfigError, figures, preset
from lth_study.networks import build
from lth_study.presets import recipes
from lth_study.settings import IMAGENET_NETWORKS, METHODS, Config


class Row(NamedTuple):
    """One row of the paper's table."""

    iterations: int
    batch_size: int
    learning_rate: float
    drops: tuple[int, ...]
    warmup: int


TABLE = {
    ("resnet20", "standard"): Row(30_000, 128, 0.1, (20_000, 25_000), 0),
    ("resnet20", "low"): Row(30_000, 128, 0.01, (20_000, 25_000), 0),
    ("resnet20", "warmup"): Row(30_000, 128, 0.03, (20_000, 25_000), 20_000),
    ("vgg19", "standard"): Row(112_000, 64, 0.1, (56_000, 84_000), 0),
    ("vgg19", "low"): Row(112_000, 64, 0.01, (56_000, 84_000), 0),
    ("vgg19", "warmup"): Row(112_000, 64, 0.1, (56_000, 84_000), 10_000),
}
DIGESTS = {
    ("resnet20", "standard"): "89c5be0fb32d",
    ("resnet20", "low"): "dd6d32865f0c",
    ("resnet20", "warmup"): "b8a64485c3ee",
    ("vgg19", "standard"): "44ac4514fe77",
    ("vgg19", "low"): "042dfd4b44c2",
    ("vgg19", "warmup"): "3c89b1f71839",
}
PROFILES = ("paper", "laptop", "smoke")
every_setting = pytest.mark.parametrize(("network", "recipe"), TABLE)
every_profile = pytest.mark.parametrize("profile", PROFILES)
deep = pytest.mark.parametrize("network", ["resnet20", "vgg19"])


@every_setting
def test_the_paper_profile_is_the_papers_table(network, recipe):
    config = preset(network, recipe)
    assert config.profile == "paper"
    assert Row(*(getattr(config, field) for field in Row._fields)) == TABLE[network, recipe]
    assert (config.optimizer, config.momentum, config.weight_decay) == ("momentum", 0.9, 1e-4)
    assert (config.dataset, config.augment, config.width, config.image_size) == ("cifar10", True, 1.0, None)
    assert (config.pruning_scope, config.pruning_rate, config.output_pruning_rate) == ("global", 0.2, None)


@every_setting
def test_the_digests_of_the_paper_presets_never_change(network, recipe):
    assert preset(network, recipe).digest() == DIGESTS[network, recipe]


@every_profile
@pytest.mark.parametrize(("network", "recipe"), [("lenet_300_100", "standard"), *TABLE])
def test_every_network_builds_by_every_recipe_at_every_profile(network, recipe, profile):
    config = preset(network, recipe, profile)
    assert (config.network, config.recipe, config.profile) == (network, recipe, profile)
    assert Config.from_json(config.to_json()) == config
    with torch.device("meta"):
        model = build(config)
    assert len(model.prunable()) == {"lenet_300_100": 3, "resnet20": 19, "vgg19": 16}[network]


def test_no_two_presets_are_the_same_study():
    presets = [preset(network, recipe, profile) for network, recipe in TABLE for profile in PROFILES]
    assert len({config.digest() for config in presets}) == len(presets)


@every_profile
@every_setting
def test_smaller_profiles_keep_the_shape_of_the_papers_schedule(network, recipe, profile):
    config, paper = preset(network, recipe, profile), TABLE[network, recipe]
    scale = config.iterations / paper.iterations
    assert config.learning_rate == paper.learning_rate
    assert config.batch_size <= paper.batch_size
    assert config.drops == pytest.approx([scale * drop for drop in paper.drops], abs=0.5)
    assert config.warmup == pytest.approx(scale * paper.warmup, abs=0.5)


@deep
def test_the_smoke_profile_needs_no_cifar10_and_tries_every_method(network):
    config = preset(network, profile="smoke")
    assert config.dataset == "mnist_embedded"
    assert config.methods == METHODS
    assert 0 in config.rewinds
    assert max(config.rewinds) > 0


@deep
def test_the_choices_that_the_paper_leaves_open_have_their_stated_defaults(network):
    config = preset(network)
    assert (config.rewind_optimizer, config.reinit_length) == ("restored", "full")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            ("resnet18",),
            "unknown network 'resnet18'; known: lenet_300_100, resnet20, vgg19, resnet50, inception_v3, squeezenet1_0",
        ),
        (("resnet20", "high"), "unknown recipe 'high'; known: standard, low, warmup"),
        (("vgg19", "high"), "unknown recipe 'high'; known: standard, low, warmup"),
        (("lenet_300_100", "low"), "unknown recipe 'low'; known: standard"),
        (("vgg19", "low", "full"), "unknown profile 'full'; known: paper, laptop, smoke"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones_listed(chosen, message):
    with pytest.raises(ConfigError) as refused:
        preset(*chosen)
    assert str(refused.value) == message


def test_the_recipes_of_a_network_are_those_of_the_papers_table_and_other_networks_are_refused():
    assert recipes("lenet_300_100") == ["standard"]
    assert recipes("resnet20") == recipes("vgg19") == ["standard", "low", "warmup"]
    with pytest.raises(
        ConfigError,
        match="unknown network 'resnet18'; known: lenet_300_100, resnet20, vgg19, "
        "resnet50, inception_v3, squeezenet1_0",
    ):
        recipes("resnet18")


def test_the_paper_levels_are_those_that_its_tables_of_stability_show():
    assert 0.8 ** preset("resnet20").levels == pytest.approx(0.167, abs=1e-3)  # 16.7% remaining
    assert 0.8 ** preset("vgg19").levels == pytest.approx(0.022, abs=1e-3)  # 2.2% remaining


@every_profile
@every_setting
def test_figures_are_two_parts_of_one_study(network, recipe, profile):
    config = preset(network, recipe, profile)
    parts = figures(config)
    assert list(parts) == ["stability", "accuracy"]
    assert parts["stability"] == config
    assert {part.digest() for part in parts.values()} == {config.digest()}
    assert {part.name for part in parts.values()} == {config.name}


@pytest.mark.parametrize(("network", "rewinds", "levels"), [("resnet20", (0, 500), 15), ("vgg19", (0, 100), 27)])
def test_the_accuracy_part_shows_every_level_at_the_papers_two_rewinds(network, rewinds, levels):
    part = figures(preset(network))["accuracy"]
    assert (part.rewinds, part.levels, part.orders) == (rewinds, levels, 1)
    assert part.compared == tuple(range(1, levels + 1))
    assert part.methods == METHODS
    assert part.replicates == (1, 2, 3)


@pytest.mark.parametrize("network", IMAGENET_NETWORKS)
def test_the_accuracy_part_of_imagenets_networks_is_the_papers_figure_8(network):
    config = preset(network)
    part = figures(config)["accuracy"]
    assert part.methods == ("imp", "random_reinit")
    assert [config.densities[level - 1] for level in part.compared] == [0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05]
    assert (part.rewinds, part.orders) == (config.rewinds, 1)
    assert config.rewinds[0] == 0
    assert config.rewinds[1] > 0


@deep
def test_the_stability_part_compares_four_orders_at_the_last_level_of_every_rewind(network):
    part = figures(preset(network))["stability"]
    assert part.compared == (part.levels,)
    assert part.orders == 4
    assert len(part.rewinds) >= 12
    assert list(part.rewinds) == sorted(part.rewinds)


def test_without_levels_and_rewinds_of_their_own_accuracy_curves_take_those_of_the_study():
    config = preset("resnet20").updated(curve_levels=None, curve_rewinds=None, rewinds=(7, 9), levels=3)
    part = figures(config)["accuracy"]
    assert (part.rewinds, part.levels, part.compared) == ((7,), 3, (1, 2, 3))
