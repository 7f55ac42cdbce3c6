"""Command lines, `lth`'s and papermill's, read into studies; and the `lth run` command that trains a study.

`cli` and `notebook` read them. `runner` puts a command into the message of `MissingRecords`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lth_study.extents import FOLDER, Extent, Study
from lth_study.plan import trainings
from lth_study.presets import changes, preset
from lth_study.settings import LABELS, OWN_FOLDER, RECORDS_ONLY, Setting, SettingError
from lth_study.store import Training

_PLACEHOLDER = f"{FOLDER}PATH/"
"""Before the name of a user's own folder: commands are kept in tickets, and hold no path."""
_OPTIONS = ("rewinds", "levels", "replicates", "orders", "dataset")
"""Settings with an option of their own in `lth run`. All others need `--set`."""


def study_of(
    network: str,
    recipe: str,
    profile: str,
    figure: str | None,
    rewinds: str | None,
    levels: int | None,
    replicates: str | None,
    orders: int | None,
    dataset: str | None,
    settings: list[str] | None,
) -> Study:
    """The study that a command's options describe."""
    study = preset(network, recipe, profile)
    own = {"rewinds": rewinds, "levels": levels, "replicates": replicates, "orders": orders, "dataset": dataset}
    changed = {name: value_of(name, value) for name, value in own.items() if value is not None}
    changed |= dict(map(setting_of, settings or ()))
    return (study if figure is None else study.only(figure)).updated(**changed)


def setting_of(text: str) -> tuple[str, object]:
    """A setting and its value, as `value_of` reads it (`pieces=4`, `densities=null`)."""
    name, given, value = text.partition("=")
    if name in ("network", *LABELS, "rewinds", "levels", "orders", "dataset"):
        raise SettingError(f"--set: {name} is an argument or option of its own")
    if not given:
        raise SettingError(f"--set: {text!r} gives no value; expected NAME=VALUE, like precision=bfloat16")
    return name, value_of(name, value)


def value_of(name: str, given: object) -> object:
    """The value of a setting or an extent's field that a command line gives, papermill's too.

    Text is read as JSON, Python's None or a list without brackets (`0,500`). One value stands for a list of it, but
    for `replicates`, where one number is a count. 3.0 is a whole number. What fits no field is returned as it is.
    """
    field = {**Setting.model_fields, **Extent.model_fields}.get(name)
    if field is None or field.annotation is None:
        return given
    one = _read(given)
    if name == "replicates" and isinstance(one, int):
        return one
    pieces = given.strip(" []()").split(",") if isinstance(given, str) else [given]
    for candidate in (one, tuple(_read(piece) for piece in pieces)):
        with suppress(ValidationError):
            TypeAdapter(field.annotation).validate_python(candidate, strict=True)
            return candidate
    return given


def _read(given: object) -> object:
    if isinstance(given, str):
        given = given.strip(" '\"")
        with suppress(ValueError):
            given = json.loads({"None": "null", "True": "true", "False": "false"}.get(given, given))
    if isinstance(given, list | tuple):
        return tuple(map(_read, given))
    return int(given) if isinstance(given, float) and given.is_integer() else given


def how_to_make(study: Study, absent: Collection[Training]) -> str:
    """The message of `MissingRecords`: how many trainings are absent, three of them, and how to train them."""
    examples = "; ".join(map(str, list(absent)[:3])) + ("; ..." if len(absent) > 3 else "")
    command = command_for(study)
    how = f"Train them by passing missing='train'{f', or in a terminal with: {command}' if command else ''}"
    if study.setting.dataset == RECORDS_ONLY:
        how = "Nothing reads these images any more; to train, choose dataset='cifar10'"
    missing = f"{len(absent)} of {len(trainings(study))} trainings of {study.setting.name} are not recorded"
    return f"{missing}: {examples}. {how}"


def command_for(study: Study, figure: str | None = None) -> str | None:
    """The command that trains a study and nothing else. None if no preset has its recipe and profile.

    It changes the preset with all its figures if that gives the study. Otherwise there is a command for each figure: it
    changes the preset's figure `figure`; by default, the one that differs least.
    """
    setting = study.setting
    try:
        standard, changed = preset(setting.network, setting.recipe, setting.profile), changes(setting)
    except SettingError:
        return None
    command = f"lth run {setting.network} --recipe {setting.recipe} --profile {setting.profile}"
    whole = changed | _differences(standard.extent, study.extent, changed)
    if list(study.extents) == list(standard.extents) and _gives(standard, whole, study):
        return " ".join([command, *map(_argument, whole, whole.values())])
    commands = []
    for extent in study.extents.values():
        differences = {
            name: _differences(own, extent, changed) for name, own in standard.extents.items() if figure in (None, name)
        }
        least = min(differences, key=lambda name: len(differences[name]))
        options = changed | differences[least]
        commands.append(" ".join([f"{command} --figure {least}", *map(_argument, options, options.values())]))
    return " && ".join(commands)


def _gives(standard: Study, changes: Mapping[str, Any], study: Study) -> bool:
    try:
        return standard.updated(**changes) == study
    except SettingError:  # for example, a shorter training ends before another figure's rewinding iterations
        return False


def _differences(own: Extent, wanted: Extent, changed: Collection[str]) -> dict[str, Any]:
    """The fields to change in an extent. New levels may bring new compared levels, and new densities bring levels."""
    found = {name: value for name, value in wanted if value != getattr(own, name)}
    if "levels" in found or "densities" in changed:
        found["levels"] = wanted.levels
        found.pop("compared_levels", None)
        if own.updated(levels=wanted.levels).compared_levels != wanted.compared_levels:
            found["compared_levels"] = wanted.compared_levels
    return found


def _argument(name: str, value: Any) -> str:
    if name == "replicates" and value == tuple(range(1, len(value) + 1)):
        value = len(value)
    elif name not in _OPTIONS or (name == "replicates" and len(value) == 1):  # one number is a count
        return f"--set '{name}={json.dumps(value)}'"
    if name == "dataset" and OWN_FOLDER.fullmatch(value):
        value = _PLACEHOLDER + value.partition("@")[0]
    return f"--{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
