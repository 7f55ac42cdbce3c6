"""The paper's settings (Figures 2 and 6) by network, recipe and profile. Every study starts from a `preset`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lth_study.extents import Extent, Study
from lth_study.settings import IMAGENET_NETWORKS, LABELS, METHODS, Setting, SettingError

Settings = dict[str, Any]

_RECIPES: dict[str, dict[str, tuple[float, float]]] = {
    "lenet_300_100": {"standard": (1.2e-3, 0)},
    "resnet20": {"standard": (0.1, 0), "low": (0.01, 0), "warmup": (0.03, 20 / 30)},
    "vgg19": {"standard": (0.1, 0), "low": (0.01, 0), "warmup": (0.1, 10 / 112)},
    "resnet50": {"standard": (0.4, 5 / 90)},
    "inception_v3": {"standard": (0.66, 0)},
    "squeezenet1_0": {"standard": (0.03, 0)},
}
"""Network -> recipe -> learning rate, and the share of training that warms it up (Figure 2 of the paper)."""
_LENET: Settings = {
    "dataset": "mnist",
    "optimizer": "adam",
    "batch_size": 60,
    "pruning_rate": 0.2,
    "output_pruning_rate": 0.1,
    "curve": {"rewinds": (0,)},
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
_IMAGENET: Settings = {
    "dataset": "imagenette",
    "augment": True,
    "pruning_scope": "global",
    "pruning_rate": 0.2,
    "densities": (0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05),
    "levels": 7,
}
_IMAGENET_BATCH = 1_024
"""The paper's batch size. By default, a smaller batch has a learning rate smaller in proportion."""
_IMAGENET_LAPTOP: Settings = {
    "smallest_crop": 0.5,
    "densities": (0.5, 0.3, 0.1),
    "levels": 3,
    "compared_levels": (2,),
    "replicates": 3,
    "orders": 2,
}
_EPOCHS = {"paper": 1_188, "imagenette": 70, "smoke": 1}
"""Updates in an epoch. paper: 95% of ImageNet in batches of 1,024. imagenette: Imagenette in batches of 128. smoke: a
stand-in that keeps the shape of schedules."""


def _epochs(length: int, epoch: int, *, rewound_to: int) -> Settings:
    """A training of `length` epochs of `epoch` updates each, rewound to initialisation and to epoch `rewound_to`."""
    return {"iterations": length * epoch, "rewinds": (0, rewound_to * epoch)}


def _imagenet(
    network: str,
    schedule: Callable[[int, float], Settings],
    compared: int,
    *,
    size: int,
    smoke_size: int,
    laptop: Settings,
    laptop_epoch: int,
    laptop_rates: float | None = None,
    auxiliary_loss: float = 0.0,
) -> dict[str, Settings]:
    """The profiles of an ImageNet network.

    `schedule` takes the updates in an epoch and the factor on learning rates. `compared` is the level in Figure 7.
    `size` and `smoke_size` are image sides in pixels. In the laptop profile, `laptop` replaces settings and
    `laptop_rates` the factor. `auxiliary_loss` is for the paper profile.
    """
    learning_rate, _ = _RECIPES[network]["standard"]

    def scale(batch_size: int, epoch: int, rates: float | None = None) -> Settings:
        rates = rates or batch_size / _IMAGENET_BATCH
        return schedule(epoch, rates) | {"batch_size": batch_size, "learning_rate": learning_rate * rates}

    study = _IMAGENET | {"compared_levels": (compared,), "replicates": 3, "orders": 4}
    smoke = {"dataset": "mnist_embedded", "image_size": smoke_size, "augment": False, "levels": 1}
    smoke |= {"densities": (0.5,), "compared_levels": None, "replicates": 1, "orders": 2}
    smoke |= {"iterations": 4, "rewinds": (0, 2), "drops": ()}
    full = {"dataset": "imagenet", "classes": 1_000, "pieces": 8, "smallest_crop": 0.08, "image_size": size}
    return {
        "paper": study | scale(1_024, _EPOCHS["paper"]) | full | {"auxiliary_loss": auxiliary_loss},
        "imagenette": study | scale(128, _EPOCHS["imagenette"]) | {"image_size": 128, "smallest_crop": 0.08},
        "laptop": study | scale(32, laptop_epoch, laptop_rates) | _IMAGENET_LAPTOP | laptop,
        "smoke": _IMAGENET | scale(8, _EPOCHS["smoke"]) | smoke,
    }


def _resnet50(epoch: int, _: float) -> Settings:
    drops = {"drops": (30 * epoch, 60 * epoch, 80 * epoch)}
    return _epochs(90, epoch, rewound_to=6) | drops | {"optimizer": "momentum", "weight_decay": 1e-4}


def _inception_v3(epoch: int, _: float) -> Settings:
    drops = {"drops": tuple(range(3 * epoch, 171 * epoch, 3 * epoch)), "drop_factor": 0.94}
    rmsprop = {"optimizer": "rmsprop", "weight_decay": 4e-5, "label_smoothing": 0.1, "weight_average": 0.995}
    return _epochs(171, epoch, rewound_to=8) | drops | rmsprop


def _squeezenet(epoch: int, rates: float) -> Settings:
    line = {"final_learning_rate": 0.005 * rates}
    return _epochs(150, epoch, rewound_to=10) | line | {"optimizer": "nesterov", "weight_decay": 2e-4}


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
        | {"levels": 8, "replicates": 3, "orders": 4, "curve": {"rewinds": (0, 500), "levels": 15}},
        "tenth": _CIFAR
        | {"batch_size": 128, "iterations": 3_000, "drops": (2_000, 2_500), "rewinds": (0, 100)}
        | {"levels": 8, "replicates": 3, "orders": 4, "curve": {"rewinds": (0, 100), "levels": 15}},
        "laptop": _CIFAR
        | {"batch_size": 64, "iterations": 1_000, "drops": (667, 833), "width": 0.5, "image_size": 16}
        | {"rewinds": (0, 25, 100, 200, 500), "levels": 8, "replicates": 5, "orders": 4}
        | {"curve": {"rewinds": (0, 25), "levels": 13}},
        "smoke": _CIFAR
        | {"dataset": "mnist_embedded", "batch_size": 32, "iterations": 12, "drops": (8, 10), "width": 0.25}
        | {"image_size": 8, "rewinds": (0, 4), "levels": 2, "replicates": 1, "orders": 2, "methods": METHODS}
        | {"curve": {"rewinds": (0,)}},
    },
    "vgg19": {
        "paper": _CIFAR
        | {"batch_size": 64, "iterations": 112_000, "drops": (56_000, 84_000)}
        | {"rewinds": (0, 10, 25, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)}
        | {"levels": 17, "replicates": 3, "orders": 4, "curve": {"rewinds": (0, 100), "levels": 27}},
        "laptop": _CIFAR
        | {"batch_size": 64, "iterations": 1_500, "drops": (750, 1_125), "width": 0.125, "image_size": 16}
        | {"rewinds": (0, 10, 50, 100, 200), "levels": 12, "replicates": 3, "orders": 4}
        | {"curve": {"rewinds": (0, 100), "levels": 14}},
        "smoke": _CIFAR
        | {"dataset": "mnist_embedded", "batch_size": 32, "iterations": 12, "drops": (6, 9), "width": 0.0625}
        | {"image_size": 8, "rewinds": (0, 4), "levels": 2, "replicates": 1, "orders": 2, "methods": METHODS}
        | {"curve": {"rewinds": (0,)}},
    },
    "resnet50": _imagenet(
        "resnet50",
        _resnet50,
        compared=4,
        size=224,
        smoke_size=32,
        laptop={"image_size": 48, "width": 0.25},
        laptop_epoch=15,
        laptop_rates=1 / 16,
    ),
    "inception_v3": _imagenet(
        "inception_v3",
        _inception_v3,
        compared=4,
        size=299,
        smoke_size=75,
        auxiliary_loss=0.4,
        laptop={"image_size": 107, "width": 0.25},
        laptop_epoch=6,
    ),
    "squeezenet1_0": _imagenet(
        "squeezenet1_0",
        _squeezenet,
        compared=3,
        size=224,
        smoke_size=32,
        laptop={"image_size": 64, "densities": (0.8, 0.5, 0.2)},
        laptop_epoch=12,
        laptop_rates=1 / 5,
    ),  # without batch norm, it learns at neither the rate in proportion to this batch nor at much higher ones
}
"""Network -> profile -> the settings that all its recipes share."""


def recipes(network: str) -> list[str]:
    """The training recipes of a network."""
    return list(_choose("network", network, _RECIPES))


def profiles(network: str) -> list[str]:
    """The profiles of a network, the paper's scale first."""
    return list(_choose("network", network, _SCALES))


def preset(network: str, recipe: str = "standard", profile: str = "paper") -> Study:
    """The study of a network with one of its recipes at one of its profiles (paper, laptop, smoke ...).

    It has an extent for each kind of figure. stability: every rewinding iteration, compared at `compared_levels`
    (Figures 3, 4, 7, 10 to 12). accuracy: every level of IMP and its controls (Figures 1, 5 and 8). ImageNet's networks
    have one control, random reinitialisation. levels, for LeNet: the stabilities at every level of original IMP.
    extreme, for LeNet at the paper's scale: original IMP pruned twice as often.

    Raises `SettingError` (a `ValueError`) for an unknown name, listing the known ones.
    """
    scales = _choose("network", network, _SCALES)
    learning_rate, warmup = _choose("recipe", recipe, _RECIPES[network])
    given = _choose("profile", profile, scales)
    labels = {"network": network, "recipe": recipe, "profile": profile}
    rates = {"learning_rate": learning_rate, "warmup": round(warmup * given["iterations"])}
    fields = rates | given | labels
    curve_has = fields.pop("curve", {})
    asked = {name: fields.pop(name) for name in Extent.model_fields if name in fields}
    setting, stability = Setting.create(**fields), Extent.create(**asked)
    curve = stability.updated(**{"compared_levels": "all"} | curve_has)
    methods = [m for m in METHODS if m != "random_pruning" or network not in IMAGENET_NETWORKS]
    extents = {"stability": stability, "accuracy": curve.updated(methods=methods, orders=1, barriers=False)}
    if network == "lenet_300_100":
        extents["levels"] = curve
        if profile == "paper":
            extents["extreme"] = curve.updated(levels=2 * curve.levels, compared_levels=(), methods=("imp",))
    return Study(setting, extents)


def changes(setting: Setting) -> dict[str, Any]:
    """The fields that differ from the preset of a setting's labels. Raises `SettingError` if there is none."""
    standard = preset(setting.network, setting.recipe, setting.profile).setting
    return {name: value for name, value in setting if name not in LABELS and value != getattr(standard, name)}


def _choose(what: str, value: str, known: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value not in known:
        raise SettingError(f"unknown {what} {value!r}; known: {', '.join(known)}")
    return known[value]
