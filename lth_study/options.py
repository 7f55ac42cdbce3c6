"""The options of the command line, read into a study."""

from __future__ import annotations

import json

from lth_study.extents import Study
from lth_study.presets import preset
from lth_study.settings import LABELS, SettingError


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
    changes: dict[str, object] = {}
    if rewinds is not None:
        changes["rewinds"] = numbers("rewinds", rewinds)
    if replicates is not None:
        counts = numbers("replicates", replicates)
        changes["replicates"] = counts[0] if len(counts) == 1 else counts
    others = {"levels": levels, "orders": orders, "dataset": dataset}
    changes |= {name: value for name, value in others.items() if value is not None}
    changes |= dict(map(setting_of, settings or ()))
    return (study if figure is None else study.only(figure)).updated(**changes)


def numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise SettingError(f"{name}: {text!r} is not a list of whole numbers like 0,500") from None


def setting_of(text: str) -> tuple[str, object]:
    """A setting and its value, read as JSON (`pieces=4`, `densities=null`) or, if it is not JSON, as text."""
    name, given, value = text.partition("=")
    if name in ("network", *LABELS, "rewinds", "levels", "orders", "dataset"):
        raise SettingError(f"--set: {name} is an argument or option of its own")
    if not given:
        raise SettingError(f"--set: {text!r} gives no value; expected NAME=VALUE, like precision=bfloat16")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
