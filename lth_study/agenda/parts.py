"""The parts of all that is to be recorded, for `lth agenda`. They may overlap; nothing is trained twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lth_study.extents import Study
from lth_study.methods import TABLE
from lth_study.presets import Settings, preset
from lth_study.report import NETWORK_NAMES
from lth_study.settings import IMAGENET_NETWORKS, METHODS, SettingError

_FIGURE_9 = ("imp", "random_reinit", "snip")
"""The methods of the paper's Figure 9."""
_AT_INITIALISATION = tuple(name for name, method in TABLE.items() if method.starts == "initial")
_SCORES = ("magnitude_at_init", "snip", "grasp", "synflow")
_WHAT_TO_REWIND = ("imp", "learning_rate_rewinding", "fine_tuning")
"""The methods of arXiv 2003.02389."""
_REPLICATES = {"squeezenet1_0": 6}
"""Network -> replicates, where it needs more than others: fewer than six can never decide by signs."""


@dataclass(frozen=True)
class Part:
    """A named part: one study, or several that are compared."""

    name: str
    studies: tuple[Study, ...]

    def replicate(self, replicate: int) -> Part:
        """The same part, with one replicate only."""
        here = [study for study in self.studies if replicate in study.extent.replicates]
        return Part(self.name, tuple(study.updated(replicates=(replicate,)) for study in here))

    def replicates(self) -> list[int]:
        """Its replicates, in ascending order."""
        return sorted({replicate for study in self.studies for replicate in study.extent.replicates})


def parts(profile: str) -> list[Part]:
    """The parts of the study at a scale, in the order to do them in: `laptop` for processors, `paper` for GPUs.

    Raises `SettingError` for another scale.
    """
    if profile not in ("laptop", "paper"):
        raise SettingError(f"unknown profile {profile!r} of the agenda; known: laptop, paper")
    return _laptop() if profile == "laptop" else _paper()


def _laptop() -> list[Part]:
    resnet20: Settings = {"profile": "laptop", "dataset": "cifar10", "orders": 2, "dense_orders": 4}
    vgg19: Settings = resnet20 | {"levels": 14, "compared_levels": (12,)}
    both: Settings = {"levels": 13, "compared_levels": (8, 13), "methods": METHODS}
    recipe: Settings = {"figure": "stability", "rewinds": (0, 25), "levels": 8, "replicates": 5}
    return [
        _part("resnet20", **resnet20, **both, rewinds=(0, 25, 100, 200, 500), replicates=8),
        _part("lenet_300_100", replicates=5),
        _part("vgg19", **vgg19, rewinds=(0, 10, 50, 100, 200), replicates=5),
        _dense_networks(),
        _part("resnet20", "low", **resnet20, **recipe),
        _part("resnet20", "warmup", **resnet20, **recipe),
        _part("vgg19", "low", **vgg19, rewinds=(0, 10, 100), replicates=3),
        _part("vgg19", "warmup", **vgg19, rewinds=(0, 10, 100), replicates=3),
        *(_part(network, profile="laptop", replicates=_REPLICATES.get(network, 5)) for network in IMAGENET_NETWORKS),
        _retrained("resnet20", "laptop", rewinds=(25,), replicates=5),
        _retrained("lenet_300_100", "paper", rewinds=(1_000,), replicates=5),
        _at_initialisation("lenet_300_100", "paper", level=10),
        _at_initialisation("resnet20", "laptop", level=8, rewinds=(0, 25)),
        _at_initialisation("vgg19", "laptop", level=12, rewinds=(0, 100)),
        _curves("resnet20", "warmup", "laptop", levels=8, methods=_FIGURE_9, replicates=5),
        _curves("resnet20", "standard", "laptop", levels=8, checked=(3, 5), replicates=5),
        _curves("lenet_300_100", "standard", "paper", levels=10, checked=(3, 6), replicates=5),
        _curves("vgg19", "warmup", "laptop", levels=12, methods=_FIGURE_9, replicates=3),
        _other_images(),
    ]


def _paper() -> list[Part]:
    gpu: Settings = {"precision": "bfloat16", "replicates": 3}
    cifar: Settings = gpu | {"dataset": "cifar10", "dense_orders": 4}
    stability: Settings = cifar | {"figure": "stability"}
    resnet20: Settings = cifar | {"rewinds": (0, 500)}
    vgg19: Settings = stability | {"rewinds": (0, 100), "orders": 2}
    return [
        _part("resnet20", **resnet20, figure="stability", orders=1),
        _part("resnet20", profile="tenth", **stability, rewinds=(0, 100), orders=1, methods=("imp",)),
        _part("resnet20", what="data orders, reinitialisation", **resnet20, methods=METHODS, orders=4),
        _part("resnet20", "low", **resnet20, figure="stability", orders=2),
        _part("resnet20", "warmup", **resnet20, figure="stability", orders=2),
        _part("resnet20", what="rewinding iterations", **stability),
        _part("vgg19", **vgg19, methods=METHODS),
        _part("vgg19", "low", **vgg19),
        _part("vgg19", "warmup", **vgg19),
        _retrained("resnet20", "paper", rewinds=(500,), **gpu),
        _at_initialisation("resnet20", "paper", level=8, rewinds=(0, 500), **gpu),
        _at_initialisation("vgg19", "paper", level=17, rewinds=(0, 100), **gpu),
        _curves("resnet20", "warmup", "paper", levels=8, methods=_FIGURE_9, **gpu),
        _curves("resnet20", "standard", "paper", levels=8, checked=(3, 5), **gpu),
        _curves("vgg19", "warmup", "paper", levels=17, methods=_FIGURE_9, **gpu),
        *(
            _part(network, profile=profile, precision="bfloat16", replicates=_REPLICATES.get(network, 3))
            for profile in ("imagenette", "paper")
            for network in IMAGENET_NETWORKS
        ),
    ]


def _part(
    network: str,
    recipe: str = "standard",
    profile: str = "paper",
    what: str = "",
    figure: str | None = None,
    **changes: Any,
) -> Part:
    """A part of one study: a preset with changes, for all its figures or for one."""
    study = preset(network, recipe, profile)
    name = f"{NETWORK_NAMES[network]} {recipe}" + (f": {what}" if what else "")
    return Part(name, ((study.only(figure) if figure else study).updated(**changes),))


def _at_initialisation(network: str, profile: str, level: int, **changes: Any) -> Part:
    """Pruning at initialisation with its sanity checks at one level, beside tickets and random subnetworks."""
    asked: Settings = {"levels": level, "compared_levels": (level,), "rewinds": (0,), "orders": 1, "replicates": 5}
    asked |= {"methods": ("imp", "random_pruning", *_AT_INITIALISATION)}
    asked |= _images(network) | changes
    return _part(network, "standard", profile, "pruning at initialisation", "stability", **asked)


def _curves(
    network: str, recipe: str, profile: str, levels: int, checked: tuple[int, ...] = (), **changes: Any
) -> Part:
    """Pruning at initialisation at every density of IMP; and with its sanity checks at the `checked` levels."""
    asked: Settings = {"levels": levels, "compared_levels": "all", "rewinds": (0,), "orders": 1, "barriers": False}
    asked |= {"methods": ("imp", "random_pruning", *_SCORES)} | _images(network) | changes
    what = "Figure 9" if asked["methods"] == _FIGURE_9 else "pruning at initialisation, every density"
    part = _part(network, recipe, profile, what, "stability", **asked)
    more = [part.studies[0].updated(compared_levels=checked, methods=("imp", *_AT_INITIALISATION))] if checked else []
    return Part(part.name, (*part.studies, *more))


def _retrained(network: str, profile: str, **changes: Any) -> Part:
    """Rewinding weights, rewinding the learning rate alone, and fine-tuning, each to 10.7% of the weights."""
    asked: Settings = {"levels": 10, "compared_levels": (10,), "orders": 1, "barriers": False}
    asked |= {"methods": _WHAT_TO_REWIND}
    return _part(network, "standard", profile, "what to rewind", "stability", **asked | _images(network) | changes)


def _images(network: str) -> Settings:
    return {"dataset": "mnist" if network == "lenet_300_100" else "cifar10"}


def _other_images() -> Part:
    """LeNet on Fashion-MNIST: accuracy and stability at two rewinding iterations, and original IMP beside its random
    subnetworks at every level."""
    changes: Settings = {"dataset": "fashion_mnist", "replicates": 3, "rewinds": (0, 1_000), "orders": 2}
    study = preset("lenet_300_100").updated(**changes, methods=("imp", "random_pruning"))
    figures = (study.only("stability"), study.only("accuracy"))
    return Part(f"{NETWORK_NAMES['lenet_300_100']} on Fashion-MNIST", figures)


def _dense_networks() -> Part:
    """The dense network with one setting changed at a time, to explain its accuracy."""
    base = preset("resnet20", profile="tenth").only("stability").updated(levels=0, rewinds=(0,), orders=1)
    changes: list[Settings] = [
        {},
        {"precision": "bfloat16"},
        {"batch_norm_scale": "one"},
        {"weight_decay_on": "convolutions"},
    ]
    changed = (base.updated(**{"dataset": "cifar10"} | change) for change in changes)
    return Part(f"{NETWORK_NAMES['resnet20']} dense, explained", tuple(changed))
