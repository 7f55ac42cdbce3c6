"""`Setting`: all that determines a training's bits, frozen and validated, with a stable digest.

Every module of `lth_study` that trains, plans, stores or reports takes one. `extents` says how much of it is asked for;
`presets` makes the paper's.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lth_study.checked import Checked
from lth_study.checked import SettingError as SettingError

DATASETS = ("mnist", "fashion_mnist", "cifar10", "cifar10_jpeg", "imagenette", "imagenet", "mnist_embedded")
RECORDS_ONLY = "cifar10_jpeg"
"""CIFAR-10 stored as JPEG images. Its records stand; nothing reads its images any more."""
OWN_FOLDER = re.compile(r"[\w.-]+@[0-9a-f]{16}")
"""A user's own folder of images as a data set: the folder's name and the fingerprint of its images, not its path."""

METHODS = ("imp", "random_pruning", "random_reinit")
"""The methods of the paper's figures: iterative magnitude pruning and its two controls. `methods` has all."""

LABELS = ("recipe", "profile")
"""Fields that only name where other fields' values come from. They do not enter the digest."""

IMAGENET_NETWORKS = ("resnet50", "inception_v3", "squeezenet1_0")
SMALLEST_IMAGE = {"squeezenet1_0": 21, "inception_v3": 75}
SMALLEST_IMAGE_WITH_AUXILIARY_HEAD = 299
_OF_CIFAR_NETWORKS = ("batch_norm_scale", "weight_decay_on")
_NOT_OF = {
    "lenet_300_100": ("width", "image_size", "augment", "smallest_crop", "classes", "pieces", "precision",
                      "label_smoothing", "auxiliary_loss", "prune_output", *_OF_CIFAR_NETWORKS),
    "resnet20": ("auxiliary_loss", "prune_output", "output_pruning_rate"),
    "vgg19": ("auxiliary_loss", "prune_output", "output_pruning_rate"),
    "resnet50": ("auxiliary_loss", "output_pruning_rate", *_OF_CIFAR_NETWORKS),
    "inception_v3": ("output_pruning_rate", *_OF_CIFAR_NETWORKS),
    "squeezenet1_0": ("width", "auxiliary_loss", "output_pruning_rate", *_OF_CIFAR_NETWORKS),
}  # fmt: skip
"""Network -> settings that do not apply to it."""

_PRESET = {("", "pruning_rate"): 0.2, ("inception_v3", "drop_factor"): 0.94}
"""(network, or "" for all; setting) -> the value of the setting in `presets`, where it is not the default. Where it has
no effect it may have no other one. A preset that changes such a value changes it here too."""

_EARLIER = ("rewinds", "levels", "compared_levels", "methods", "replicates", "orders", "dense_orders", "barriers",
            "curve_levels", "curve_rewinds")  # fmt: skip
"""Fields of files from before extents were apart. They are ignored."""


class Setting(Checked):
    """All that determines the bits of a study's trainings, and two labels: where the values come from.

    `iterations` counts optimiser updates. Pruning rates are fractions of the surviving weights, in [0, 1].
    """

    network: Literal["lenet_300_100", "resnet20", "vgg19", "resnet50", "inception_v3", "squeezenet1_0"]
    recipe: str = Field(pattern=r"^[\w.-]+$")  # both are part of the name of a folder
    profile: str = Field(pattern=r"^[\w.-]+$")
    dataset: str
    """One of `DATASETS`, or a folder of images as `OWN_FOLDER` spells it."""
    classes: int = Field(default=10, ge=2)
    width: float = Field(default=1.0, gt=0, le=4)
    """Factor on the filters in every layer of ResNet-20, VGG-19 and Inception-v3, and in ResNet-50's bottlenecks."""
    image_size: int | None = Field(default=None, ge=8)
    """Side in pixels to which images are resized. None: their own size."""
    batch_norm_scale: Literal["uniform", "one"] = "uniform"
    """Initial scales of batch norm in ResNet-20 and VGG-19: drawn uniformly from 0 to 1, or all 1."""
    augment: bool = False
    """Random crops and random horizontal flips. Crops are of images padded by 4 pixels, or as `smallest_crop` says."""
    smallest_crop: float | None = Field(default=None, gt=0, le=1)
    """Random crops of this share of an image's area or more, scaled to its size. None: crops of padded images."""
    iterations: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    pieces: int = Field(default=1, ge=1)
    """Pieces that a batch is divided into, to save memory. Batch norm normalises each piece by itself."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of products in training and evaluation. Weights and optimiser are always in float32. tf32 needs a GPU
    and rounds the factors of every product to 10 bits."""
    optimizer: Literal["adam", "momentum", "nesterov", "rmsprop"]
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    warmup: int = Field(default=0, ge=0)
    """Iterations over which the learning rate grows linearly from 0 to `learning_rate`."""
    drops: tuple[int, ...] = ()
    """Iterations at which the learning rate is multiplied by `drop_factor`."""
    drop_factor: float = Field(default=0.1, gt=0, le=1)
    final_learning_rate: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Learning rate at the end of a training over which it falls linearly. None: it does not fall linearly."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    weight_decay_on: Literal["all", "convolutions"] = "all"
    """Parameters of ResNet-20 and VGG-19 that decay: all, or only the convolutions' weights. The latter leaves out the
    parameters of batch norm and of the output layer."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    auxiliary_loss: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the loss of Inception-v3's auxiliary head. 0: no auxiliary head."""
    weight_average: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the exponential average of the weights. Evaluation uses the average. 0: it uses the weights."""
    rewind_optimizer: Literal["restored", "fresh"] = "restored"
    """Whether rewinding restores the optimiser's moments or sets them to zero."""
    reinit_length: Literal["full", "remaining"] = "full"
    """Whether the reinitialised control trains for all iterations, or only for those after the rewinding iteration."""
    pruning_scope: Literal["layerwise", "global"] = "layerwise"
    pruning_rate: float = Field(ge=0, le=1)
    output_pruning_rate: float | None = Field(default=None, ge=0, le=1)
    prune_output: bool = False
    """Whether the output layer of an ImageNet network is pruned with its convolutions."""
    densities: tuple[float, ...] | None = None
    """One-shot pruning: level n prunes the dense network once, to the nth of these. None: iterative pruning."""

    @field_validator("densities")
    @classmethod
    def _none_is_iterative(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return value or None

    @field_validator("dataset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DATASETS and not OWN_FOLDER.fullmatch(value):
            raise ValueError(
                f"dataset: {value!r} is unknown; known: {', '.join(map(repr, DATASETS))}, or for a study 'folder:PATH'"
            )
        return value

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        if self.network == "lenet_300_100" and OWN_FOLDER.fullmatch(self.dataset):
            raise ValueError(
                f"dataset: {self.dataset} has colour images, and lenet_300_100 takes grey ones; choose a convolutional "
                "network, like resnet20"
            )
        if round(self.width * {"resnet20": 16, "vgg19": 64, "resnet50": 64}.get(self.network, 100)) < 1:
            raise ValueError(
                f"width: {self.width} leaves layers of {self.network} without filters; choose a larger width"
            )
        if self.network == "inception_v3" and self.width * 16 % 1:
            raise ValueError(
                f"width: {self.width} must be a multiple of 1/16 for inception_v3, or its branches do not fit"
            )
        for name in _NOT_OF[self.network]:
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(f"{name}: {value!r} is not a setting of {self.network}; leave it out")
        head = " and its auxiliary head" if self.auxiliary_loss else ""
        smallest = SMALLEST_IMAGE_WITH_AUXILIARY_HEAD if head else SMALLEST_IMAGE.get(self.network, 0)
        if smallest and (self.image_size or 0) < smallest:
            raise ValueError(
                f"image_size: {self.image_size} is too small for {self.network}{head}; choose {smallest} or more"
            )
        return self

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if not all(0 < density < 1 for density in self.densities or ()):
            raise ValueError(f"densities: {list(self.densities or ())} must be fractions to keep, between 0 and 1")
        if self.pruning_scope == "global" and self.output_pruning_rate is not None:
            raise ValueError(
                f"output_pruning_rate: {self.output_pruning_rate} is for layerwise pruning, but pruning_scope is "
                "'global'; leave one of them out"
            )
        if self.pruning_scope != "global" and self.densities is not None:
            raise ValueError(
                "densities: one-shot pruning ranks the weights of all layers together; also set pruning_scope to "
                "'global' and output_pruning_rate to null"
            )
        if self.warmup >= self.iterations:
            raise ValueError(
                f"warmup: {self.warmup} iterations do not end before the training's {self.iterations} do; choose fewer"
            )
        if not all(0 <= drop < self.iterations for drop in self.drops):
            raise ValueError(
                f"drops: {list(self.drops)} must be iterations from 0 to {self.iterations - 1}, before the end"
            )
        if self.pieces > self.batch_size:
            raise ValueError(f"pieces: {self.pieces} is more than the {self.batch_size} images of a batch")
        if self.drops and self.drop_factor == 1:
            raise ValueError(f"drop_factor: 1 takes the effect from drops={list(self.drops)}; set drops to [] instead")
        for name, why in self._without_effect().items():
            value, fields = getattr(self, name), type(self).model_fields
            if value != _PRESET.get((self.network, name), _PRESET.get(("", name), fields[name].default)):
                raise ValueError(f"{name}: {value!r} has no effect {why}; leave it out")
        if self.drops and self.final_learning_rate is not None:
            raise ValueError(
                f"final_learning_rate: {self.final_learning_rate} makes the learning rate fall linearly, and "
                f"drops={list(self.drops)} in steps; give one of them"
            )
        return self

    def _without_effect(self) -> dict[str, str]:
        """The fields that change no bit of this setting's trainings, and why. Two digests would name one study."""
        idle = {}
        if not self.augment:
            idle["smallest_crop"] = "without augment=True"
        if self.optimizer == "adam":
            idle["momentum"] = "with optimizer='adam'"
        if not self.weight_decay:
            idle["weight_decay_on"] = "with weight_decay=0"
        if not self.drops:
            idle["drop_factor"] = "without drops"
        if self.densities is not None:
            idle["pruning_rate"] = "with densities"
        if self.final_learning_rate == self.learning_rate:
            idle["final_learning_rate"] = f"with learning_rate={self.learning_rate}"
        return idle

    def digest(self) -> str:
        """Twelve hexadecimal digits that name the study: a hash of `determining`.

        A field at its default does not enter the hash. So a new field changes no digest if its default means the old
        behaviour.
        """
        text = json.dumps(self.determining(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def determining(self) -> dict[str, Any]:
        """The fields that determine a training's bits: not `LABELS`, and none at its default."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(LABELS))

    @property
    def name(self) -> str:
        """Folder name of the study; the digest makes it unique."""
        return f"{self.network}-{self.recipe}-{self.profile}-{self.dataset}-{self.digest()}"

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Setting:
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingError(f"not a setting in JSON: {error}") from None
        if not isinstance(fields, dict):
            raise SettingError(f"not a setting: expected a JSON object, got {text[:40]!r}")
        return cls.create(**{name: value for name, value in fields.items() if name not in _EARLIER})
