"""The notebooks: what is stored is one clean run, they hold no machinery, and they refuse wrong parameters."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import papermill
import pytest
from conftest import PROJECT
from notebook_files import IPC, NOTEBOOKS, code_cells, read
from papermill.exceptions import PapermillExecutionError

WRONG_VALUES: dict[str, dict[str, Any]] = {
    "cifar10_accuracy": {"network": "resnet18"},
    "cifar10_data": {"network": "resnet50"},
    "cifar10_recipes": {"dataset": "cifar100"},
    "cifar10_scale": {"scales": "text"},
    "cifar10_stability": {"recipe": "high"},
    "claims": {"networks": 3},
    "cluster": {"price": -1},
    "costs": {"profile": "gigantic"},
    "faults": {"kind": "no such fault"},
    "imagenet": {"network": "resnet20"},
    "lenet_mnist": {"levels": -1},
    "provenance": {"study": "no such study"},
    "pruning_at_init": {"recipe": "high"},
    "quickstart": {"profile": "enormous"},
    "sanity_checks": {"network": "resnet18"},
    "sparse": {"network": ["lenet_300_100"]},
    "stability_senses": {"recipe": "high"},
    "what_to_rewind": {"profile": "enormous"},
}
"""Notebook -> a value that its parameter does not admit. Every notebook with parameters needs one."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def is_parameters(cell: Any) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def parameters(path: Path) -> list[str]:
    """The names that the parameters cell assigns."""
    (cell,) = [cell for cell in code_cells(path) if is_parameters(cell)]
    targets = [target for node in ast.parse(cell.source).body for target in getattr(node, "targets", [])]
    return [target.id for target in targets]


def refusal(path: Path, values: dict[str, Any], named: str) -> str:
    """What the first cell after the parameters says, naming this, of values that it must refuse."""
    cells = code_cells(path)
    (position,) = [i for i, cell in enumerate(cells) if is_parameters(cell)]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells[: position + 1]:
        exec(cell.source, namespace)
    with pytest.raises(ValueError, match=re.escape(named)) as refused:
        exec(cells[position + 1].source, namespace | values)
    return str(refused.value)


@every_notebook
def test_what_is_stored_is_one_clean_run_in_order(path: Path) -> None:
    """pandas leaves out rows of long tables, and ends of long texts, where it is not told to show them."""
    cells, metadata = code_cells(path), read(path).metadata
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.source.strip() for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    cut = [output for output in outputs if re.search(r"\.\.\.</t[hd]>", output.get("data", {}).get("text/html", ""))]
    assert cut == []
    assert metadata.kernelspec.name == "python3"
    assert not {"widgets", "papermill"} & set(metadata)
    assert "application/vnd.jupyter.widget" not in path.read_text()


@every_notebook
def test_no_paths_no_training_loop_and_no_mask_arithmetic(path: Path) -> None:
    for cell in code_cells(path):
        assert not re.search(r"\.backward\(|optimi[sz]er\.step|torch\.optim|masked_fill", cell.source), cell.source
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", cell.source
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"\.{0,2}/", node.value), f"a path: {node.value!r}"
    assert str(Path.home()) not in path.read_text()
    assert str(PROJECT) not in path.read_text()


@every_notebook
def test_outputs_drawn_from_records_are_compared(path: Path) -> None:
    """Only what a notebook trains may come out otherwise on another processor."""
    (given,) = [cell.source for cell in code_cells(path) if is_parameters(cell)]
    ignored = [cell for cell in code_cells(path) if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert not ('missing = "error"' in given and ignored)


@every_notebook
def test_every_parameter_is_used_later(path: Path) -> None:
    cells = code_cells(path)
    (position,) = [i for i, cell in enumerate(cells) if is_parameters(cell)]
    later = [node for cell in cells[position + 1 :] for node in ast.walk(ast.parse(cell.source))]
    names = {node.id for node in later if isinstance(node, ast.Name)}
    fields = {node.attr for node in later if isinstance(node, ast.Attribute)}
    handed_over = names & {"configure"}  # every parameter becomes a setting of the configuration
    handed_over |= {node for node in later if isinstance(node, ast.keyword) and node.arg is None}  # or of a call
    assert handed_over or set(parameters(path)) <= names | fields


@every_notebook
def test_an_unknown_parameter_and_a_wrong_value_are_refused_at_once(path: Path) -> None:
    said = refusal(path, {"bogus": 1}, "bogus")
    assert [name for name in parameters(path) if name not in said] == []
    ((name, value),) = WRONG_VALUES[path.stem].items()
    assert name in refusal(path, {name: value}, str(value))


def test_names_of_a_startup_file_are_no_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ipython" / "profile_default" / "startup"
    folder.mkdir(parents=True)
    (folder / "00.py").write_text("from pathlib import Path\nfrom os import environ\ntable = mine = profile = 'none'\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    path = PROJECT / "notebooks" / "costs.ipynb"
    made = papermill.execute_notebook(
        str(path), str(tmp_path / "made.ipynb"), {"profile": "laptop"}, progress_bar=False, config=IPC
    )
    assert made.metadata.papermill.exception is None
    with pytest.raises(PapermillExecutionError) as refused:
        papermill.execute_notebook(
            str(path), str(tmp_path / "no.ipynb"), {"profil": "laptop"}, progress_bar=False, config=IPC
        )
    assert refused.value.evalue.startswith("unknown parameter 'profil'; valid")
    (position,) = [i for i, cell in enumerate(code_cells(path)) if is_parameters(cell)]
    assert refused.value.exec_count == position + 3  # papermill adds a cell after the parameters
