"""Checks a notebook's parameters. Every notebook calls it in the first cell after them.

papermill accepts any parameter name and value. `settings` and `presets` say which ones are valid.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from lth_study.commands import value_of
from lth_study.extents import Extent, Study
from lth_study.presets import preset
from lth_study.settings import LABELS, Setting, SettingError

_SETTINGS = [name for name in (*Setting.model_fields, *Extent.model_fields) if name not in ("network", *LABELS)]
_PARAMETERS = ["network", *LABELS, "missing", "data_folder", *_SETTINGS]


def given_parameters(namespace: Mapping[str, Any], valid: Collection[str]) -> dict[str, Any]:
    """A notebook's parameters, from its `globals()` in the first cell after them, as `value_of` reads them.

    They are what the cells before this one assign. Where these are not known, they are all names that are no function,
    class or module and that no startup file defined. Raises `SettingError`, naming the valid parameters, for one that
    the notebook does not have.
    """
    if cells := namespace.get("_ih", [])[1:-1]:  # IPython's input, from 1; the last is the cell that calls this
        names = set[str]().union(*map(_assigned, cells))
    else:  # nbval's cells are not in it, and a script has none
        shell = namespace.get("get_ipython")
        hidden = shell().user_ns_hidden if shell else {}  # what was there when the kernel was ready
        names = {name for name in namespace if name in valid or name not in hidden}
    given = {
        name: value_of(name, value)
        for name, value in namespace.items()
        if name in names and not name.startswith("_") and not isinstance(value, (FunctionType, ModuleType, type))
    }
    unknown = [repr(name) for name in given if name not in valid]
    if unknown:
        raise SettingError(
            f"unknown parameter {', '.join(unknown)}; valid parameters: {', '.join(valid)}. Restart the kernel before "
            "running this cell again"
        )
    return given


def configure(
    namespace: Mapping[str, Any],
    *,
    figure: str | None = None,
    networks: Collection[str] | None = None,
    without: Collection[str] = (),
    **fixed: Any,
) -> tuple[Study, dict[str, Any]]:
    """The study that a notebook's parameters describe, and the options for `run`.

    Parameters are `network`, `recipe`, `profile`, the fields of `Setting` and `Extent`, `missing` ("train" or "error")
    and `data_folder`. None stands for the preset's own value. The text "null" unsets it: `densities = "null"` asks for
    iterative pruning. `figure` is the only figure of the study, if it is given.
    `data_folder` sets `LTH_DATA`: this process and those that it starts read data from there. Raises `SettingError` for
    a network that is not among `networks`, where they are given.
    Names in `fixed` and in `without` are not parameters: `given_parameters` refuses them as unknown.
    """
    given = fixed | given_parameters(namespace, [name for name in _PARAMETERS if name not in {*fixed, *without}])
    if networks is not None and given["network"] not in networks:
        raise SettingError(f"network: {given['network']!r} is not one of this notebook's: {', '.join(networks)}")
    options = {"missing": given.pop("missing")} if "missing" in given else {}
    if options.get("missing", "train") not in ("train", "error"):
        raise SettingError(f"missing: {options['missing']!r} is not valid; expected 'train' or 'error'")
    if options.get("missing") == "train":
        options["progress"] = "bar"
    folder = given.pop("data_folder", None)
    if folder is not None and not (isinstance(folder, str) and Path(folder).is_dir()):
        raise SettingError(f"data_folder: {folder!r} is not a folder; expected one that holds data sets, or None")
    study = preset(given.pop("network"), given.pop("recipe", "standard"), given.pop("profile", "paper"))
    study = study.only(figure) if figure is not None else study
    own = {name for name in given if fixed.get(name, namespace.get(name)) is None}  # the text "null" is not
    study = study.updated(**{name: value for name, value in given.items() if name not in own})
    if folder is not None:
        os.environ["LTH_DATA"] = str(Path(folder).absolute())
    return study, options


def mapping_of(name: str, value: object, example: Mapping[str, str]) -> dict[str, str]:
    """A parameter that maps texts to texts, which a command line gives as JSON. Raises `SettingError` for others."""
    with suppress(ValueError):
        value = json.loads(value) if isinstance(value, str) else value
    if isinstance(value, dict) and value and all(isinstance(text, str) for pair in value.items() for text in pair):
        return value
    raise SettingError(f"{name}: {value!r} is not valid; expected names with values, like {json.dumps(dict(example))}")


def _assigned(cell: str) -> set[str]:
    """The names that a cell assigns."""
    try:
        tree = ast.parse(cell)
    except SyntaxError:  # it has not run
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
