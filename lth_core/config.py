"""What an experiment is: a frozen, validated configuration with a stable digest, and the presets of the study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

METHODS = ("imp", "random_pruning", "random_reinit")
"""Subnetworks that can be trained beside the dense network: iterative magnitude pruning and its two controls."""

LABELS = ("recipe", "profile")
"""Fields that only name other fields' values; a study is what its settings make it, whatever they are called."""

EXTENT = ("rewinds", "levels", "compared_levels", "methods", "replicates", "orders")
"""Fields that say how much of a study is asked for. They do not change the bits of any one training, so they stay out
of the digest: asking for more levels or replicates adds trainings to a study instead of starting another one."""


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the value, what was expected and how to mend it."""


class Config(BaseModel):
    """One study: everything that determines its trainings, and how many of them are wanted.

    Units: `iterations`, `rewinds` count optimiser updates; rates are fractions of the surviving weights in [0, 1];
    replicates are seeds (1, 2, ...); a data order is a number, 0 being the one the dense network is trained with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    network: str
    recipe: str
    profile: str
    dataset: str
    iterations: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    optimizer: Literal["adam", "momentum"]
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    pruning_rate: float = Field(ge=0, le=1)
    output_pruning_rate: float | None = Field(default=None, ge=0, le=1)

    rewinds: tuple[int, ...]
    levels: int = Field(ge=0)
    compared_levels: tuple[int, ...] = ()
    methods: tuple[Literal["imp", "random_pruning", "random_reinit"], ...] = ("imp", "random_pruning")
    replicates: tuple[int, ...]
    orders: int = Field(ge=1)

    @field_validator("rewinds", "compared_levels", "methods", "replicates", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("replicates", mode="before")
    @classmethod
    def _count_to_seeds(cls, value: Any) -> Any:
        return tuple(range(1, value + 1)) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check_extent(self) -> Config:
        for k in self.rewinds:
            if not 0 <= k < self.iterations:
                raise ValueError(
                    f"rewinds: cannot rewind to iteration {k}; the training has {self.iterations} iterations, "
                    f"so choose 0 <= k <= {self.iterations - 1}"
                )
        for level in self.compared_levels:
            if not 1 <= level <= self.levels:
                raise ValueError(
                    f"compared_levels: level {level} is not pruned here; choose from 1 to levels={self.levels}"
                )
        for name in ("rewinds", "replicates", "methods"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name}: expected at least one value, got none")
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: {list(values)} names a value twice; name each once")
        if any(replicate < 1 for replicate in self.replicates):
            raise ValueError(f"replicates: {list(self.replicates)} must be seeds of 1 or more, or how many to run")
        return self

    @classmethod
    def create(cls, **fields: Any) -> Config:
        """Build a configuration; every problem is reported in one `ConfigError` that names the field and its value."""
        unknown = sorted(set(fields) - set(cls.model_fields))
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(map(repr, unknown))}; known: {', '.join(cls.model_fields)}")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(problem) for problem in error.errors())) from None

    def updated(self, **changes: Any) -> Config:
        """The same configuration with some fields changed, validated again."""
        return self.create(**{**dict(self), **changes})

    def digest(self) -> str:
        """Twelve hexadecimal digits that name the study: a hash of what determines its trainings.

        Fields left at a declared default do not count, so a field added later with a default that means "as before"
        changes no digest. Neither `LABELS` nor the extent (`EXTENT`) count.
        """
        determining = self.model_dump(mode="json", exclude_defaults=True, exclude={*LABELS, *EXTENT})
        text = json.dumps(determining, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Folder name of the study: readable, and unique through the digest."""
        return f"{self.network}-{self.recipe}-{self.profile}-{self.dataset}-{self.digest()}"

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"not a configuration in JSON: {error}") from None
        return cls.create(**fields)


def _explain(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['input']!r} is not valid: {problem['msg'].lower()}"


_LENET_300_100: dict[str, Any] = {
    "dataset": "mnist",
    "optimizer": "adam",
    "learning_rate": 1.2e-3,
    "batch_size": 60,
    "pruning_rate": 0.2,
    "output_pruning_rate": 0.1,
}
_PRESETS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "lenet_300_100": {
        "standard": {
            "paper": _LENET_300_100
            | {"iterations": 50_000, "rewinds": (0, 100, 500, 1_000, 5_000, 20_000), "levels": 10}
            | {"compared_levels": (10,), "replicates": 3, "orders": 4},
            "laptop": _LENET_300_100
            | {"iterations": 2_000, "rewinds": (0, 100), "levels": 10}
            | {"compared_levels": (10,), "replicates": 2, "orders": 2},
            "smoke": _LENET_300_100
            | {"dataset": "mnist_embedded", "iterations": 120, "rewinds": (0, 20), "levels": 2}
            | {"compared_levels": (2,), "replicates": 1, "orders": 2, "methods": METHODS},
        },
    },
}
"""Network -> recipe -> profile -> settings."""


def _choose(what: str, value: str, known: Mapping[str, Any]) -> Any:
    if value not in known:
        raise ConfigError(f"unknown {what} {value!r}; known: {', '.join(known)}")
    return known[value]


def preset(network: str, recipe: str = "standard", profile: str = "paper") -> Config:
    """A setting of the study: a network, one of its recipes, at one of the profiles (smoke, laptop, paper).

    Raises `ConfigError` (a `ValueError`) that lists the known names when one is unknown.
    """
    recipes = _choose("network", network, _PRESETS)
    fields = _choose("profile", profile, _choose("recipe", recipe, recipes))
    return Config.create(network=network, recipe=recipe, profile=profile, **fields)


def figures(config: Config) -> dict[str, Config]:
    """The parts of a network's study, named by the figure that each is for; together they are the whole study.

    accuracy: every level of original IMP (k = 0) with its controls and further data orders. stability: every
    rewinding iteration, compared at the last level. extreme (paper profile only): k = 0 pruned twice as deep.
    """
    every_level = tuple(range(1, config.levels + 1))
    parts = {
        "accuracy": config.updated(rewinds=config.rewinds[:1], compared_levels=every_level, methods=METHODS),
        "stability": config,
    }
    if config.profile == "paper":
        parts["extreme"] = config.updated(
            rewinds=config.rewinds[:1], levels=2 * config.levels, compared_levels=(), methods=("imp",)
        )
    return parts
