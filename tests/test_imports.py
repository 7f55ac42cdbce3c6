"""The two packages import each other, and what lies around them, in one direction only."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in ("lth_core", "lth_study")
    for file in (ROOT / package).rglob("*.py")
}


def imported(module: str) -> set[str]:
    """Every module that a module imports, wherever in it."""
    found = set[str]()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in FILES else node.module for name in names}
    return found


def test_no_module_imports_one_that_imports_it() -> None:
    graph = {module: imported(module) & FILES.keys() for module in FILES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)  # raises CycleError where there is a circle


def test_the_method_imports_torch_numpy_safetensors_and_nothing_of_the_study() -> None:
    outside = {name.split(".")[0] for module in FILES if module.startswith("lth_core") for name in imported(module)}
    assert outside - sys.stdlib_module_names <= {"lth_core", "torch", "numpy", "safetensors"}
