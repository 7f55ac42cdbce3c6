"""The settings of the presets, against the paper's tables (Figures 2 and 6; the drops put right)."""

from typing import NamedTuple

import pytest

from lth_study import SettingError, preset
from lth_study.presets import profiles, recipes
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
OF_ALL = {"profile": "paper", "rewind_optimizer": "restored", "reinit_length": "full", "pruning_rate": 0.2}
OF_LENET = {"optimizer": "adam", "weight_decay": 0.0, "dataset": "mnist", "pruning_scope": "layerwise",
            "output_pruning_rate": 0.1}  # fmt: skip
OF_CIFAR = {"optimizer": "momentum", "momentum": 0.9, "weight_decay": 1e-4, "dataset": "cifar10", "augment": True,
            "width": 1.0, "image_size": None, "pruning_scope": "global", "output_pruning_rate": None}  # fmt: skip
every_recipe = pytest.mark.parametrize(("network", "recipe"), TABLE)


@every_recipe
def test_the_paper_profile_is_the_papers_table(network, recipe):
    expected = TABLE[network, recipe]._asdict() | OF_ALL | (OF_LENET if network == "lenet_300_100" else OF_CIFAR)
    expected |= {"network": network, "recipe": recipe}
    assert preset(network, recipe).setting.model_dump(include=set(expected)) == expected


@pytest.mark.parametrize("profile", ["laptop", "smoke"])
@every_recipe
def test_smaller_profiles_keep_the_shape_of_the_papers_schedule(network, recipe, profile):
    setting, paper = preset(network, recipe, profile).setting, TABLE[network, recipe]
    scale = setting.iterations / paper.iterations
    assert setting.learning_rate == paper.learning_rate
    assert setting.batch_size <= paper.batch_size
    assert setting.drops == pytest.approx([scale * drop for drop in paper.drops], abs=0.5)
    assert setting.warmup == pytest.approx(scale * paper.warmup, abs=0.5)


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
    for listed in (recipes, profiles):
        with pytest.raises(SettingError, match="unknown network 'resnet18'; known: lenet_300_100"):
            listed("resnet18")


@pytest.mark.parametrize(
    ("network", "remaining", "rewinds", "levels"),
    [("lenet_300_100", 0.107, (0,), 10), ("resnet20", 0.167, (0, 500), 15), ("vgg19", 0.022, (0, 100), 27)],
)
def test_stability_is_at_the_papers_density_and_accuracy_at_every_level_and_the_papers_rewinds(
    network, remaining, rewinds, levels
):
    study = preset(network)
    stability, accuracy = study.extents["stability"], study.extents["accuracy"]
    assert 0.8**stability.levels == pytest.approx(remaining, abs=1e-3)
    assert (stability.compared, stability.orders) == ((stability.levels,), 4)
    assert list(stability.rewinds) == sorted(stability.rewinds)
    assert (accuracy.rewinds, accuracy.levels, accuracy.orders) == (rewinds, levels, 1)
    assert accuracy.compared == tuple(range(1, levels + 1))
    assert accuracy.methods == METHODS
    assert accuracy.replicates == stability.replicates == (1, 2, 3)


@pytest.mark.parametrize("network", IMAGENET_NETWORKS)
def test_the_accuracy_figure_of_imagenets_networks_is_the_papers_figure_8(network):
    study = preset(network)
    extent = study.extents["accuracy"]
    assert extent.methods == ("imp", "random_reinit")
    assert [study.setting.densities[level - 1] for level in extent.compared] == [0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05]
    assert (extent.rewinds, extent.orders) == (study.extent.rewinds, 1)
    assert 0 == study.extent.rewinds[0] < study.extent.rewinds[1]


def test_lenet_also_has_the_stabilities_of_every_level_and_prunes_twice_as_often_at_the_papers_scale():
    assert list(preset("lenet_300_100", profile="laptop").extents) == ["stability", "accuracy", "levels"]
    extents = preset("lenet_300_100").extents
    assert (extents["levels"].rewinds, extents["levels"].compared) == ((0,), tuple(range(1, 11)))
    assert (extents["extreme"].levels, extents["extreme"].compared, extents["extreme"].methods) == (20, (), ("imp",))
