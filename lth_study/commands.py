"""The `lth run` command that trains a configuration. `runner` puts it into the message of `MissingRecords`."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from lth_study.plan import trainings
from lth_study.presets import figures, preset
from lth_study.settings import EXTENT, LABELS, Config, ConfigError
from lth_study.store import Training

_OPTIONS = ("rewinds", "levels", "replicates", "orders", "dataset")
"""Settings with an option of their own in `lth run`. All others need `--set`."""


def how_to_make(config: Config, absent: Collection[Training]) -> str:
    """The message of `MissingRecords`: how many trainings are absent, three of them, and how to train them."""
    examples = "; ".join(map(str, list(absent)[:3])) + ("; ..." if len(absent) > 3 else "")
    command = command_for(config)
    return (
        f"{len(absent)} of {len(trainings(config))} trainings of {config.name} are not recorded: {examples}. "
        f"Train them by passing missing='train'{f', or in a terminal with: {command}' if command else ''}"
    )


def command_for(config: Config) -> str | None:
    """The command that trains a configuration and nothing else. None if no preset has its recipe and profile."""
    try:
        standard = preset(config.network, config.recipe, config.profile)
    except ConfigError:
        return None
    own = {name: value for name, value in config if name not in ("network", *LABELS, *EXTENT)}
    own["replicates"] = config.replicates
    figure = _figure(config, standard, own)
    if figure is None:
        figure = "stability"  # `figures` returns the configuration itself under this name
        own |= {name: getattr(config, name) for name in EXTENT if not name.startswith("curve")}
    command = f"lth run {config.network} --recipe {config.recipe} --profile {config.profile} --figure {figure}"
    for name, value in own.items():
        brought = name == "levels" and config.densities != standard.densities  # new densities would set the levels
        if brought or value != getattr(standard, name):
            command += f" {_argument(name, value)}"
    return command


def _figure(config: Config, standard: Config, own: dict[str, Any]) -> str | None:
    """The name of the preset's figure that equals the configuration once `own` settings are applied, or None."""
    try:
        parts = figures(standard.updated(**own))
    except ConfigError:  # for example, a shorter training ends before the preset's rewinding iterations
        return None
    return next((name for name, part in parts.items() if part == config), None)


def _argument(name: str, value: Any) -> str:
    if name == "replicates" and value == tuple(range(1, len(value) + 1)):
        value = len(value)
    elif name not in _OPTIONS or (name == "replicates" and len(value) == 1):  # one number is a count
        return f"--set '{name}={json.dumps(value)}'"
    return f"--{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
