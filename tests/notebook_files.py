"""The notebooks as files, and how kernels are talked to that execute them."""

from pathlib import Path
from typing import Any

import nbformat
from conftest import PROJECT
from traitlets.config import Config

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))

IPC = Config({manager: {"transport": "ipc"} for manager in ("KernelManager", "AsyncKernelManager")})
"""Through sockets in the file system: many tests on one machine cannot race for ports."""


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]
