"""The settings of the study: every network, with its recipes, at every profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lth_core.config import METHODS, Config, ConfigError

Settings = dict[str, Any]

_LENET: Settings = {
    "dataset": "mnist",
    "optimizer": "adam",
    "batch_size": 60,
    "pruning_rate": 0.2,
    "output_pruning_rate": 0.1,
    "curve_rewinds": (0,),
}
_CIFAR: Settings = {
    "dataset": "cifar10",
    "optimizer": "momentum",
    "weight_decay": 1e-4,
    "augment": True,
    "pruning_scope": "global",
    "pruning_rate": 0.2,
}
_RESNET20_GRID = (0, 10, 25, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_SCALES: dict[str, dict[str, Settings]] = {
    "lenet_300_100": {
        "paper": _LENET
        | {"iterations": 50_000, "rewinds": (0, 100, 500, 1_000, 5_000, 20_000), "levels": 10}
        | {"replicates": 3, "orders": 4},
        "laptop": _LENET | {"iterations": 2_000, "rewinds": (0, 100), "levels": 10} | {"replicates": 2, "orders": 2},
        "smoke": _LENET
        | {"dataset": "mnist_embedded", "iterations": 120, "rewinds": (0, 20), "levels": 2}
        | {"replicates": 1, "orders": 2, "methods": METHODS},
    },
    "resnet20": {
        "paper": _CIFAR
        | {"batch_size": 128, "iterations": 30_000, "drops": (20_000, 25_000), "rewinds": _RESNET20_GRID}
        | {"levels": 8, "replicates": 3, "orders": 4, "curve_levels": 15, "curve_rewinds": (0, 500)},
        "laptop": _CIFAR
        | {"batch_size": 64, "iterations": 1_000, "drops": (667, 833), "width": 0.5, "image_size": 16}
        | {"rewinds": (0, 25, 100, 200, 500), "levels": 8, "replicates": 5, "orders": 4}
        | {"curve_levels": 13, "curve_rewinds": (0, 25)},
        "smoke": _CIFAR
        | {"dataset": "mnist_embedded", "batch_size": 32, "iterations": 12, "drops": (8, 10), "width": 0.25}
        | {"image_size": 8, "rewinds": (0, 4), "levels": 2, "replicates": 1, "orders": 2, "methods": METHODS},
    },
    "vgg19": {
        "paper": _CIFAR
        | {"batch_size": 64, "iterations": 112_000, "drops": (56_000, 84_000)}
        | {"rewinds": (0, 10, 25, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)}
        | {"levels": 17, "replicates": 3, "orders": 4, "curve_levels": 27, "curve_rewinds": (0, 100)},
        "laptop": _CIFAR
        | {"batch_size": 64, "iterations": 1_500, "drops": (750, 1_125), "width": 0.125, "image_size": 16}
        | {"rewinds": (0, 10, 50, 100, 200), "levels": 12, "replicates": 3, "orders": 4}
        | {"curve_levels": 14, "curve_rewinds": (0, 100)},
        "smoke": _CIFAR
        | {"dataset": "mnist_embedded", "batch_size": 32, "iterations": 12, "drops": (6, 9), "width": 0.0625}
        | {"image_size": 8, "rewinds": (0, 4), "levels": 2, "replicates": 1, "orders": 2, "methods": METHODS},
    },
}
"""Network -> profile -> settings that all recipes share."""

_RECIPES: dict[str, dict[str, tuple[float, float]]] = {
    "lenet_300_100": {"standard": (1.2e-3, 0)},
    "resnet20": {"standard": (0.1, 0), "low": (0.01, 0), "warmup": (0.03, 20 / 30)},
    "vgg19": {"standard": (0.1, 0), "low": (0.01, 0), "warmup": (0.1, 10 / 112)},
}
"""Network -> recipe -> learning rate, and the share of training over which it is warmed up (the paper's Figure 2)."""


def recipes(network: str) -> list[str]:
    """The training recipes of a network."""
    return list(_choose("network", network, _RECIPES))


def preset(network: str, recipe: str = "standard", profile: str = "paper") -> Config:
    """A setting of the study: a network, one of its recipes, at one of the profiles (smoke, laptop, paper).

    Raises `ConfigError` (a `ValueError`) that lists the known names when one is unknown.
    """
    scales = _choose("network", network, _SCALES)
    learning_rate, warmup = _choose("recipe", recipe, _RECIPES[network])
    settings = _choose("profile", profile, scales)
    return Config.create(
        **settings
        | {"network": network, "recipe": recipe, "profile": profile}
        | {"learning_rate": learning_rate, "warmup": round(warmup * settings["iterations"])}
    )


def _choose(what: str, value: str, known: Mapping[str, Any]) -> Any:
    if value not in known:
        raise ConfigError(f"unknown {what} {value!r}; known: {', '.join(known)}")
    return known[value]


def figures(config: Config) -> dict[str, Config]:
    """The parts of a network's study, each named for what it shows; together they are the whole study.

    stability: every rewinding iteration, compared at the last level (Figures 3, 4, 10, 11). accuracy: every level of
    IMP and its controls (Figures 1 and 5). levels and extreme, for LeNet: the stabilities at every level of original
    IMP, and original IMP pruned twice as often.
    """
    rewinds = config.curve_rewinds or config.rewinds[:1]
    deepest = config.levels if config.curve_levels is None else config.curve_levels
    curve = config.updated(rewinds=rewinds, levels=deepest, compared_levels=tuple(range(1, deepest + 1)))
    parts = {"stability": config, "accuracy": curve.updated(methods=METHODS, orders=1)}
    if config.network == "lenet_300_100":
        parts["levels"] = curve
        if config.profile == "paper":
            parts["extreme"] = curve.updated(levels=2 * deepest, compared_levels=(), methods=("imp",))
    return parts
