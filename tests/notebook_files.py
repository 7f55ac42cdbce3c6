"""The notebooks as files, and how kernels are talked to that execute them."""

import os
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import nbformat
from conftest import PROJECT
from traitlets.config import Config

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))

SOCKETS = {"transport": "ipc", "ip": f"{gettempdir()}/lth-tests-{os.getpid()}"}
IPC = Config(dict.fromkeys(("KernelManager", "AsyncKernelManager"), SOCKETS))
"""Through sockets in the file system, with names of this process's own: many tests on one machine cannot race for them,
as they would for ports."""


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]
