"""A notebook's parameters: what papermill lets through is checked here, in the first cell after them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from lth_study.presets import preset
from lth_study.settings import LABELS, Config, ConfigError

_SETTINGS = [name for name in Config.model_fields if name not in ("network", *LABELS)]
_PARAMETERS = ["network", *LABELS, "missing", "data_folder", *_SETTINGS]


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
        raise ConfigError(
            f"unknown parameter {', '.join(unknown)}; valid parameters: {', '.join(valid)}. To run a notebook again "
            "from here, restart its kernel first"
        )
    return given


def configure(
    namespace: Mapping[str, Any],
    *,
    networks: Collection[str] | None = None,
    without: Collection[str] = (),
    **fixed: Any,
) -> tuple[Config, dict[str, Any]]:
    """The configuration that a notebook's parameters describe, and what they say beside it for `run`.

    Parameters are `network`, `recipe`, `profile`, the fields of `Config`, `missing` ("train" or "error") and
    `data_folder`, the folder in which data is looked for from then on, also by processes that are started (`LTH_DATA`).
    None stands for the preset's own value. Where the notebook is about some `networks`, another one is refused. What is
    `fixed` here is no parameter, nor are settings in `without`, which mean nothing to the notebook: given as
    parameters, they are refused as unknown. See `given_parameters`.
    """
    given = fixed | given_parameters(namespace, [name for name in _PARAMETERS if name not in {*fixed, *without}])
    if networks is not None and given["network"] not in networks:
        raise ConfigError(f"network: {given['network']!r} is not one of this notebook's: {', '.join(networks)}")
    options = {"missing": given.pop("missing")} if "missing" in given else {}
    if options.get("missing", "train") not in ("train", "error"):
        raise ConfigError(f"missing: {options['missing']!r} is not valid; expected 'train' or 'error'")
    if options.get("missing") == "train":
        options["progress"] = "bar"
    folder = given.pop("data_folder", None)
    if folder is not None and not (isinstance(folder, str) and Path(folder).is_dir()):
        raise ConfigError(f"data_folder: {folder!r} is not a folder; expected one that holds data sets, or None")
    config = preset(given.pop("network"), given.pop("recipe", "standard"), given.pop("profile", "paper"))
    config = config.updated(**{name: value for name, value in given.items() if value is not None})
    if folder is not None:
        os.environ["LTH_DATA"] = str(Path(folder).absolute())
    return config, options
