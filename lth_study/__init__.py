"""The experiment: the paper's studies with the method of `lth_core`, from settings to records and figures.

The public names are imported when they are first used, so that the command line need not wait for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "DataError": "data.parts",
    "Extent": "extents",
    "MissingRecords": "plan",
    "Setting": "settings",
    "SettingError": "settings",
    "Stopped": "training",
    "StoreError": "files",
    "Study": "extents",
    "configure": "notebook",
    "preset": "presets",
    "pruner": "training.train",
    "run": "runner",
    "trainer": "training.train",
}
"""Public name -> the module that defines it. `__init__.pyi` tells type checkers the same."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lth_study' has no attribute {name!r}")
    value = getattr(import_module(f"lth_study.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
