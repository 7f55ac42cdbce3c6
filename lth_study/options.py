"""The options of command lines, `lth`'s and papermill's, read into settings."""

from __future__ import annotations

import json
from contextlib import suppress

from pydantic import TypeAdapter, ValidationError

from lth_study.extents import Extent, Study
from lth_study.presets import preset
from lth_study.settings import LABELS, Setting, SettingError


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
    changes = {name: value_of(name, value) for name, value in own.items() if value is not None}
    changes |= dict(map(setting_of, settings or ()))
    return (study if figure is None else study.only(figure)).updated(**changes)


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
