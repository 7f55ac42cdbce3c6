"""The settings of the presets, against the paper's tables (Figures 2 and 6; the drops put right)."""

from typing import NamedTuple

import pytest
import torch

from lth_study import SettingError, preset
from lth_study.networks import build
from lth_study.presets import recipes
from lth_study.settings import IMAGENET_NETWORKS, METHODS


class Row(NamedTuple):
    """One row of the paper's table."""

    iterations: int
    batch_size: int
    learning_rate: float
    drops: tuple[int, ...]
    warmup: int


TABLE = {
    ("lenet_300_100", "standard"): Row(50_000, 60, 1.2e-3, (), 0),
    ("resnet20", "standard"): Row(30_000, 128, 0.1, (20_000, 25_000), 0),
    ("resnet20", "low"): Row(30_000, 128, 0.01, (20_000, 25_000), 0),
    ("resnet20", "warmup"): Row(30_000, 128, 0.03, (20_000, 25_000), 20_000),
    ("vgg19", "standard"): Row(112_000, 64, 0.1, (56_000, 84_000), 0),
    ("vgg19", "low"): Row(112_000, 64, 0.01, (56_000, 84_000), 0),
    ("vgg19", "warmup"): Row(112_000, 64, 0.1, (56_000, 84_000), 10_000),
}
every_recipe = pytest.mark.parametrize(("network", "recipe"), TABLE)
every_profile = pytest.mark.parametrize("profile", ["paper", "laptop", "smoke"])
deep = pytest.mark.parametrize("network", ["resnet20", "vgg19"])


@every_recipe
def test_the_paper_profile_is_the_papers_table(network, recipe):
    setting = preset(network, recipe).setting
    assert (setting.network, setting.recipe, setting.profile) == (network, recipe, "paper")
    assert Row(*(getattr(setting, field) for field in Row._fields)) == TABLE[network, recipe]
    assert (setting.rewind_optimizer, setting.reinit_length, setting.pruning_rate) == ("restored", "full", 0.2)
    if network == "lenet_300_100":
        assert (setting.optimizer, setting.weight_decay, setting.dataset) == ("adam", 0.0, "mnist")
        assert (setting.pruning_scope, setting.output_pruning_rate) == ("layerwise", 0.1)
    else:
        assert (setting.optimizer, setting.momentum, setting.weight_decay) == ("momentum", 0.9, 1e-4)
        assert (setting.dataset, setting.augment) == ("cifar10", True)
        assert (setting.width, setting.image_size) == (1.0, None)
        assert (setting.pruning_scope, setting.output_pruning_rate) == ("global", None)


@every_profile
@every_recipe
def test_smaller_profiles_keep_the_shape_of_the_papers_schedule(network, recipe, profile):
    setting, paper = preset(network, recipe, profile).setting, TABLE[network, recipe]
    scale = setting.iterations / paper.iterations
    assert setting.learning_rate == paper.learning_rate
    assert setting.batch_size <= paper.batch_size
    assert setting.drops == pytest.approx([scale * drop for drop in paper.drops], abs=0.5)
    assert setting.warmup == pytest.approx(scale * paper.warmup, abs=0.5)
    with torch.device("meta"):
        model = build(setting)
    assert len(model.prunable()) == {"lenet_300_100": 3, "resnet20": 19, "vgg19": 16}[network]


@deep
def test_the_smoke_profile_needs_no_download_and_tries_every_method(network):
    study = preset(network, profile="smoke")
    assert study.setting.dataset == "mnist_embedded"
    assert study.extent.methods == METHODS
    assert min(study.extent.rewinds) == 0 < max(study.extent.rewinds)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            ("resnet18",),
            "unknown network 'resnet18'; known: lenet_300_100, resnet20, vgg19, resnet50, inception_v3, squeezenet1_0",
        ),
        (("resnet20", "high"), "unknown recipe 'high'; known: standard, low, warmup"),
        (("lenet_300_100", "low"), "unknown recipe 'low'; known: standard"),
        (("vgg19", "low", "full"), "unknown profile 'full'; known: paper, laptop, smoke"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones_listed(chosen, message):
    with pytest.raises(SettingError) as refused:
        preset(*chosen)
    assert str(refused.value) == message


def test_the_recipes_of_a_network_are_those_of_the_papers_table():
    assert [(network, recipe) for network in ("lenet_300_100", "resnet20", "vgg19") for recipe in recipes(network)] == [
        *TABLE
    ]
    with pytest.raises(SettingError, match="unknown network 'resnet18'; known: lenet_300_100"):
        recipes("resnet18")


def test_the_paper_levels_are_those_that_its_tables_of_stability_show():
    assert 0.8 ** preset("resnet20").extent.levels == pytest.approx(0.167, abs=1e-3)  # 16.7% remaining
    assert 0.8 ** preset("vgg19").extent.levels == pytest.approx(0.022, abs=1e-3)  # 2.2% remaining


@pytest.mark.parametrize(
    ("network", "rewinds", "levels"),
    [("lenet_300_100", (0,), 10), ("resnet20", (0, 500), 15), ("vgg19", (0, 100), 27)],
)
def test_the_accuracy_figure_shows_every_level_at_the_papers_rewinds(network, rewinds, levels):
    extent = preset(network).extents["accuracy"]
    assert (extent.rewinds, extent.levels, extent.orders) == (rewinds, levels, 1)
    assert extent.compared == tuple(range(1, levels + 1))
    assert extent.methods == METHODS
    assert extent.replicates == (1, 2, 3)


@pytest.mark.parametrize("network", IMAGENET_NETWORKS)
def test_the_accuracy_figure_of_imagenets_networks_is_the_papers_figure_8(network):
    study = preset(network)
    extent = study.extents["accuracy"]
    assert extent.methods == ("imp", "random_reinit")
    assert [study.setting.densities[level - 1] for level in extent.compared] == [0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05]
    assert (extent.rewinds, extent.orders) == (study.extent.rewinds, 1)
    assert 0 == study.extent.rewinds[0] < study.extent.rewinds[1]


@deep
def test_the_stability_figure_compares_four_orders_at_the_last_level_of_every_rewind(network):
    extent = preset(network).extents["stability"]
    assert extent.compared == (extent.levels,)
    assert extent.orders == 4
    assert len(extent.rewinds) >= 12
    assert list(extent.rewinds) == sorted(extent.rewinds)


def test_lenet_also_has_the_stabilities_of_every_level_and_prunes_twice_as_often_at_the_papers_scale():
    assert list(preset("lenet_300_100", profile="laptop").extents) == ["stability", "accuracy", "levels"]
    extents = preset("lenet_300_100").extents
    assert (extents["levels"].rewinds, extents["levels"].compared) == ((0,), tuple(range(1, 11)))
    assert (extents["extreme"].levels, extents["extreme"].compared, extents["extreme"].methods) == (20, (), ("imp",))
