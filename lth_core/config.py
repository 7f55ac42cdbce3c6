"""What an experiment is: a frozen, validated configuration with a stable digest, and the presets of the study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from types import FunctionType, ModuleType
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

    network: Literal["lenet_300_100"]
    recipe: str
    profile: str
    dataset: Literal["mnist", "mnist_embedded"]
    iterations: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    optimizer: Literal["adam", "momentum"]
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    pruning_rate: float = Field(ge=0, le=1)
    output_pruning_rate: float | None = Field(default=None, ge=0, le=1)

    rewinds: tuple[int, ...]
    levels: int = Field(ge=0)
    compared_levels: tuple[int, ...] | None = None
    """Levels at which controls and further data orders are trained. None: the last one."""
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
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if value < 1:
            raise ValueError(f"replicates: {value} must be how many to run, 1 or more, or a list of seeds")
        return tuple(range(1, value + 1))

    @model_validator(mode="after")
    def _check_extent(self) -> Config:
        for k in self.rewinds:
            if not 0 <= k < self.iterations:
                raise ValueError(
                    f"rewinds: cannot rewind to iteration {k}; the training has {self.iterations} iterations, "
                    f"so choose 0 <= k <= {self.iterations - 1}"
                )
        for level in self.compared_levels or ():
            if not 1 <= level <= self.levels:
                raise ValueError(
                    f"compared_levels: level {level} is not pruned here; choose from 1 to levels={self.levels}"
                )
        for name in ("rewinds", "replicates", "methods", "compared_levels"):
            values = getattr(self, name)
            if values is None:
                continue
            if not values and name != "compared_levels":
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
        text = json.dumps(self.determining(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def determining(self) -> dict[str, Any]:
        """The settings that determine a training's bits, without those left at a default."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={*LABELS, *EXTENT})

    @property
    def compared(self) -> tuple[int, ...]:
        """The levels at which controls and further data orders are trained."""
        if self.compared_levels is not None:
            return self.compared_levels
        return (self.levels,) if self.levels else ()

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
        if not isinstance(fields, dict):
            raise ConfigError(f"not a configuration: expected a JSON object, got {text[:40]!r}")
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
            | {"replicates": 3, "orders": 4},
            "laptop": _LENET_300_100
            | {"iterations": 2_000, "rewinds": (0, 100), "levels": 10}
            | {"replicates": 2, "orders": 2},
            "smoke": _LENET_300_100
            | {"dataset": "mnist_embedded", "iterations": 120, "rewinds": (0, 20), "levels": 2}
            | {"replicates": 1, "orders": 2, "methods": METHODS},
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


def given_parameters(namespace: Mapping[str, Any], valid: Collection[str]) -> dict[str, Any]:
    """A notebook's parameters, from its `globals()` in the first cell after them.

    papermill lets through a parameter that the notebook does not have; here it raises a `ConfigError` that names it
    and the valid ones.
    """
    shell = {"In", "Out", "exit", "quit", "get_ipython", "open"}
    given = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in shell and not isinstance(value, (FunctionType, ModuleType))
    }
    unknown = [repr(name) for name in given if name not in valid]
    if unknown:
        raise ConfigError(f"unknown parameter {', '.join(unknown)}; valid parameters: {', '.join(valid)}")
    return given


def configure(namespace: Mapping[str, Any], network: str, recipe: str = "standard") -> tuple[Config, dict[str, Any]]:
    """The configuration that a notebook's parameters describe, and what they say beside it for `run`.

    Parameters are `profile`, the fields of `Config`, and `missing` ("train" or "error"); see `given_parameters`.
    """
    settings = [name for name in Config.model_fields if name not in ("network", *LABELS)]
    given = given_parameters(namespace, ["profile", "missing", *settings])
    options = {"missing": given.pop("missing")} if "missing" in given else {}
    if options.get("missing", "train") not in ("train", "error"):
        raise ConfigError(f"missing: {options['missing']!r} is not valid; expected 'train' or 'error'")
    return preset(network, recipe, given.pop("profile", "paper")).updated(**given), options


def figures(config: Config) -> dict[str, Config]:
    """The parts of a network's study, each named for what it shows; together they are the whole study.

    stability: every rewinding iteration, compared at the last level (Figures 3, 4, 10, 11). accuracy: every level of
    original IMP and its controls (Figure 1). levels: the stabilities at every level of original IMP. extreme (paper
    profile): original IMP pruned twice as often.
    """
    every_level = tuple(range(1, config.levels + 1))
    original = config.updated(rewinds=config.rewinds[:1], compared_levels=every_level)
    parts = {
        "stability": config,
        "accuracy": original.updated(methods=METHODS, orders=1),
        "levels": original,
    }
    if config.profile == "paper":
        parts["extreme"] = original.updated(levels=2 * config.levels, compared_levels=(), methods=("imp",))
    return parts
