"""The parts of the study: lists of configurations for `lth agenda`. They may overlap; nothing is trained twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lth_study.presets import Settings, figures, preset
from lth_study.report import NETWORK_NAMES
from lth_study.settings import IMAGENET_NETWORKS, METHODS, Config, ConfigError


@dataclass(frozen=True)
class Part:
    """A named part of the study."""

    name: str
    configs: tuple[Config, ...]

    def studies(self) -> list[list[Config]]:
        """Its configurations, grouped by study."""
        names = dict.fromkeys(config.name for config in self.configs)
        return [[config for config in self.configs if config.name == name] for name in names]

    def replicate(self, replicate: int) -> Part:
        """The same part, with one replicate only."""
        here = [config for config in self.configs if replicate in config.replicates]
        return Part(self.name, tuple(config.updated(replicates=(replicate,)) for config in here))

    def replicates(self) -> list[int]:
        """Its replicates, in ascending order."""
        return sorted({replicate for config in self.configs for replicate in config.replicates})


def parts(profile: str) -> list[Part]:
    """The parts of the study at a scale, in the order to do them in: `laptop` for processors, `paper` for GPUs.

    Raises `ConfigError` for another scale.
    """
    if profile not in ("laptop", "paper"):
        raise ConfigError(f"unknown profile {profile!r} of the agenda; known: laptop, paper")
    return _laptop() if profile == "laptop" else _paper()


def _laptop() -> list[Part]:
    resnet20: Settings = {"profile": "laptop", "dataset": "cifar10", "orders": 2, "dense_orders": 4}
    vgg19: Settings = resnet20 | {"levels": 14, "compared_levels": (12,), "curve_levels": 14, "curve_rewinds": (0, 100)}
    both: Settings = {
        "levels": 13,
        "compared_levels": (8, 13),
        "curve_levels": 13,
        "curve_rewinds": (0, 25),
        "methods": METHODS,
    }
    recipe: Settings = {"rewinds": (0, 25), "levels": 8, "replicates": 5}
    return [
        _part("resnet20", **resnet20, **both, rewinds=(0, 25, 100, 200, 500), replicates=8),
        _part("lenet_300_100", replicates=5),
        _part("vgg19", **vgg19, rewinds=(0, 10, 50, 100, 200), replicates=5),
        _dense_networks(),
        _part("resnet20", "low", only=True, **resnet20, **recipe),
        _part("resnet20", "warmup", only=True, **resnet20, **recipe),
        _part("vgg19", "low", **vgg19, rewinds=(0, 10, 100), replicates=3),
        _part("vgg19", "warmup", **vgg19, rewinds=(0, 10, 100), replicates=3),
        *(_part(network, profile="laptop", replicates=5) for network in IMAGENET_NETWORKS),
    ]


def _paper() -> list[Part]:
    gpu: Settings = {"precision": "bfloat16", "replicates": 3}
    cifar: Settings = gpu | {"only": True, "dataset": "cifar10", "dense_orders": 4}
    resnet20: Settings = cifar | {"rewinds": (0, 500), "levels": 8}
    vgg19: Settings = cifar | {"rewinds": (0, 100), "levels": 17, "orders": 2}
    curves: Settings = {"only": False, "methods": METHODS, "orders": 4, "curve_levels": 15, "curve_rewinds": (0, 500)}
    return [
        _part("resnet20", **resnet20, orders=1),
        _part("resnet20", profile="tenth", **resnet20 | {"rewinds": (0, 100)}, orders=1, methods=("imp",)),
        _part("resnet20", what="data orders, reinitialisation", **resnet20 | curves),
        _part("resnet20", "low", **resnet20, orders=2),
        _part("resnet20", "warmup", **resnet20, orders=2),
        _part("resnet20", what="rewinding iterations", **cifar),
        _part("vgg19", **vgg19, methods=METHODS),
        _part("vgg19", "low", **vgg19),
        _part("vgg19", "warmup", **vgg19),
        *(_part(network, profile="imagenette", **gpu) for network in IMAGENET_NETWORKS),
        *(_part(network, **gpu) for network in IMAGENET_NETWORKS),
    ]


def _part(
    network: str,
    recipe: str = "standard",
    profile: str = "paper",
    what: str = "",
    only: bool = False,
    **changes: Any,
) -> Part:
    """A part from a preset with changes: all its `figures`, or only the configuration itself if `only`."""
    config = preset(network, recipe, profile).updated(**changes)
    name = f"{NETWORK_NAMES[network]} {recipe}" + (f": {what}" if what else "")
    return Part(name, (config,) if only else tuple(figures(config).values()))


def _dense_networks() -> Part:
    """The dense network with one setting changed at a time, to explain its accuracy."""
    base = preset("resnet20", profile="tenth").updated(levels=0, rewinds=(0,), curve_rewinds=None, orders=1)
    changes: list[Settings] = [
        {},
        {"dataset": "cifar10_jpeg"},
        {"precision": "bfloat16"},
        {"batch_norm_scale": "one"},
        {"weight_decay_on": "convolutions"},
    ]
    changed = (base.updated(**{"dataset": "cifar10"} | change) for change in changes)
    return Part(f"{NETWORK_NAMES['resnet20']} dense, explained", tuple(changed))
