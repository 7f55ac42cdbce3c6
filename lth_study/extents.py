"""`Extent`: how much of a study is asked for. `Study`: a setting with the extent of each of its figures.

`presets` makes studies; notebooks, the command line and `agenda` change them; `plan` lists their trainings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lth_study.checked import Checked, unknown_setting
from lth_study.methods import TABLE
from lth_study.settings import Setting, SettingError

FOLDER = "folder:"
"""Before the path of a user's own folder of images."""

_MOST = 1_000
"""Levels, data orders or replicates of a study. A list of more trainings than anyone makes fills the memory."""


class Extent(Checked):
    """How much of a study is asked for. It changes no training's bits: more levels or replicates add trainings.

    Rewinding iterations count optimiser updates. Replicates are seeds (1, 2, ...). A data order is a number; the dense
    network's first one is 0.
    """

    rewinds: tuple[int, ...]
    levels: int = Field(ge=0, le=_MOST)
    compared_levels: tuple[int, ...] | Literal["all"] | None = None
    """Levels at which controls and further data orders are trained. None: the last level."""
    methods: tuple[str, ...] = ("imp", "random_pruning")
    """The subnetworks to train at the compared levels: names of rows of `methods.TABLE`."""
    replicates: tuple[int, ...]
    orders: int = Field(ge=1, le=_MOST)
    dense_orders: int = Field(default=1, ge=1, le=_MOST)
    """Number of data orders for the dense network. The first gives W_k and the masks; all give its accuracy."""
    barriers: bool = True
    """Whether error barriers are measured at the compared levels. Accuracy curves compare every level and do not."""

    @field_validator("replicates", mode="before")
    @classmethod
    def _count_to_seeds(cls, value: Any) -> Any:
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if not 1 <= value <= _MOST:
            raise ValueError(f"replicates: {value} must be a number of replicates, 1 to {_MOST}, or a list of seeds")
        return tuple(range(1, value + 1))

    @model_validator(mode="after")
    def _check(self) -> Self:
        for level in self.compared:
            if not 1 <= level <= self.levels:
                raise ValueError(
                    f"compared_levels: level {level} is not pruned here; choose from 1 to levels={self.levels}"
                )
        for name in ("rewinds", "replicates", "methods", "compared"):
            values = getattr(self, name)
            if not values and name != "compared":
                raise ValueError(f"{name}: expected at least one value, got none")
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: {list(values)} names a value twice; name each once")
        for method in self.methods:
            if method not in TABLE:
                raise ValueError(f"methods: {method!r} is unknown; known: {', '.join(map(repr, TABLE))}")
            if TABLE[method].starts == "initial" and 0 not in self.rewinds:
                raise ValueError(f"methods: {method!r} prunes at initialisation; add 0 to rewinds={list(self.rewinds)}")
        if any(replicate < 1 for replicate in self.replicates):
            raise ValueError(f"replicates: {list(self.replicates)} must be seeds of 1 or more, or their number")
        return self

    def updated(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again. New levels drop those compared levels that are deeper."""
        levels = changes.get("levels")
        if isinstance(levels, int) and "compared_levels" not in changes and isinstance(self.compared_levels, tuple):
            kept = tuple(level for level in self.compared_levels if level <= levels)
            changes["compared_levels"] = kept or (None if self.compared_levels else ())
        return super().updated(**changes)

    @property
    def compared(self) -> tuple[int, ...]:
        """The levels at which controls and further data orders are trained."""
        if isinstance(self.compared_levels, tuple):
            return self.compared_levels
        first = self.levels if self.compared_levels is None else 1
        return tuple(range(max(1, first), self.levels + 1))

    @property
    def last_compared(self) -> int:
        """The last of `compared`. Raises `SettingError` if there is none."""
        if not self.compared:
            raise SettingError(
                f"levels: {self.levels} and compared_levels: {self.compared_levels} leave no level to compare "
                "subnetworks at; set compared_levels to one or more levels"
            )
        return self.compared[-1]


@dataclass(frozen=True)
class Study:
    """A setting, and an extent for each figure that shows it, by the figure's name.

    Raises `SettingError` if an extent asks for what the setting does not have: a rewinding iteration after the end of
    training, or more levels than densities.
    """

    setting: Setting
    extents: Mapping[str, Extent]

    def __post_init__(self) -> None:
        for extent in self.extents.values():
            _check(self.setting, extent)

    @property
    def extent(self) -> Extent:
        """The extent of the first figure."""
        return next(iter(self.extents.values()))

    def only(self, figure: str) -> Study:
        """The same setting, for one figure. Raises `SettingError` for a figure that the study does not have."""
        if figure not in self.extents:
            raise SettingError(f"unknown figure {figure!r}; known: {', '.join(self.extents)}")
        return Study(self.setting, {figure: self.extents[figure]})

    def updated(self, **changes: Any) -> Study:
        """A copy with some fields of the setting or of its extents changed, checked again.

        The first figure takes a change of its extent as it is. The others take replicates, levels, methods and
        `dense_orders` from it, and data orders if they compare any. They take as many rewinding iterations as they had,
        their own before others. New densities set `levels` to their number. `dataset="folder:PATH"` is a folder of
        images: its classes set `classes`. Raises `DataError` with all that is wrong with the folder.
        """
        dataset = changes.get("dataset")
        if isinstance(dataset, str) and dataset.startswith(FOLDER):
            from lth_study.data.own_folder import identify

            rest = self.updated(**{name: value for name, value in changes.items() if name != "dataset"})
            own = identify(dataset.removeprefix(FOLDER), rest.setting.batch_size)
            return rest.updated(dataset=own.name, classes=changes.get("classes", len(own.classes)))
        if unknown := sorted(set(changes) - set(Setting.model_fields) - set(Extent.model_fields)):
            raise unknown_setting(unknown, [*Setting.model_fields, *Extent.model_fields])
        if isinstance(densities := changes.get("densities"), list | tuple) and densities and "levels" not in changes:
            changes["levels"] = len(densities)
        asked = {name: changes.pop(name) for name in Extent.model_fields if name in changes}
        (figure, extent), *others = self.extents.items()
        problems = []
        try:
            setting = self.setting.updated(**changes)
        except SettingError as error:
            problems.append(str(error))
        try:
            first = extent.updated(**asked)
        except SettingError as error:
            problems.append(str(error))
        if problems:
            raise SettingError("; ".join(problems))
        follow = {name: getattr(first, name) for name in asked}
        return Study(setting, {figure: first} | {name: _following(own, follow) for name, own in others})


def _following(own: Extent, asked: Mapping[str, Any]) -> Extent:
    """The extent of a further figure, when the first figure's is changed."""
    followed = {"replicates", "levels", "methods", "dense_orders"} | ({"orders"} if own.orders > 1 else set())
    changes = {name: value for name, value in asked.items() if name in followed}
    if "rewinds" in asked:
        kept = [k for k in own.rewinds if k in asked["rewinds"]]
        others = [k for k in asked["rewinds"] if k not in kept]
        changes["rewinds"] = (*kept, *others)[: len(own.rewinds)]
    return own.updated(**changes)


def _check(setting: Setting, extent: Extent) -> None:
    for k in extent.rewinds:
        if not 0 <= k < setting.iterations:
            raise SettingError(
                f"rewinds: cannot rewind to iteration {k}; the training has {setting.iterations} iterations, "
                f"so choose 0 <= k <= {setting.iterations - 1}"
            )
    if setting.densities is not None and extent.levels > len(setting.densities):
        raise SettingError(
            f"levels: {extent.levels} is more than the {len(setting.densities)} densities of one-shot pruning"
        )
