"""The command that makes the records a configuration asks for, for the message that says that they are missing."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from lth_study.plan import trainings
from lth_study.presets import figures, preset
from lth_study.settings import EXTENT, LABELS, Config, ConfigError
from lth_study.store import Training

_OPTIONS = ("rewinds", "levels", "replicates", "orders", "dataset")
"""Settings for which `lth run` has an option of their own; it takes all others with `--set`."""


def how_to_make(config: Config, absent: Collection[Training]) -> str:
    """The message of `MissingRecords`."""
    examples = "; ".join(map(str, list(absent)[:3])) + ("; ..." if len(absent) > 3 else "")
    command = command_for(config)
    return (
        f"{len(absent)} of {len(trainings(config))} trainings of {config.name} are not recorded: {examples}. "
        f"Train them by passing missing='train'{f', or in a terminal with: {command}' if command else ''}"
    )


def command_for(config: Config) -> str | None:
    """The command that trains what a configuration asks for and nothing else.

    None where it is called by a recipe or profile that no preset has.
    """
    try:
        standard = preset(config.network, config.recipe, config.profile)
    except ConfigError:
        return None
    own = {name: value for name, value in config if name not in ("network", *LABELS, *EXTENT)}
    own["replicates"] = config.replicates
    figure = _figure(config, standard, own)
    if figure is None:
        figure = "stability"  # which is the configuration itself
        own |= {name: getattr(config, name) for name in EXTENT if not name.startswith("curve")}
    command = f"lth run {config.network} --recipe {config.recipe} --profile {config.profile} --figure {figure}"
    for name, value in own.items():
        brought = name == "levels" and config.densities != standard.densities  # by the densities, were it left out
        if brought or value != getattr(standard, name):
            command += f" {_argument(name, value)}"
    return command


def _figure(config: Config, standard: Config, own: dict[str, Any]) -> str | None:
    """The figure of a preset, with settings of one's own, that a configuration is."""
    try:
        parts = figures(standard.updated(**own))
    except ConfigError:  # the preset's rewinding iterations, say, are beyond the end of a shorter training
        return None
    return next((name for name, part in parts.items() if part == config), None)


def _argument(name: str, value: Any) -> str:
    if name == "replicates" and value == tuple(range(1, len(value) + 1)):
        value = len(value)
    elif name not in _OPTIONS or (name == "replicates" and len(value) == 1):  # one number is how many
        return f"--set '{name}={json.dumps(value)}'"
    return f"--{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
