"""Files from strangers: nothing in them is run, nothing is written outside of the folder that was named, and a file
that claims too much is one clear sentence. `test_exchange`, `test_tickets` and `test_cifar10` have pickles in files."""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from project import ROOT
from safetensors.torch import save
from studies import Done

from lth_core import Mask, exchange, states
from lth_study import Setting, SettingError, StoreError, files, preset, weights
from lth_study.records import export_store, import_folder
from lth_study.store import StudyStore, Training

PACKAGES = ("lth_core", "lth_study", "benchmarks", "workflow", "book")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
LOADERS = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}
ADMITTED = {
    "lth_core/exchange.py": {"pickle.UnpicklingError"},  # what torch raises
    "lth_study/data/cifar10.py": {"pickle.Unpickler"},  # of batches with known digests, and only numpy's arrays
    "workflow/bundle.py": {"archive.extractall"},  # of a zip file too, whose names zipfile keeps in the folder
    "benchmarks/fuzz.py": {"exec"},  # of the cell that papermill writes
}
SAFELY = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "extractall": ("filter", "data")}
"""Function -> the argument, and its value, without which it may run or write anything."""


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What in a program may run what a file holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in {*LOADERS, "joblib"}:
            yield from (f"{node.module}.{each.name}" for each in node.names if each.name != "cpu_count")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in LOADERS:
            yield f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.asname and each.name.split(".")[0] in LOADERS)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {each.arg: getattr(each.value, "value", None) for each in node.keywords}
        own = name.rpartition(".")[2]
        asked, value = SAFELY.get(name, SAFELY.get(own, ("", None)))
        if given.get(asked) != value or name in ("exec", "eval", "os.system", "os.popen") or own == "read_pickle":
            yield name
        if given.get("shell") is True or given.get("allow_pickle") is True or given.get("weights_only") is False:
            yield name


def test_no_program_runs_what_a_file_holds() -> None:
    found = {str(file.relative_to(ROOT)): set(unsafe(ast.parse(file.read_text()))) for file in SOURCES}
    assert {file: ways for file, ways in found.items() if ways} == ADMITTED


def test_the_scan_sees_each_way_of_running_a_file() -> None:
    ways = ["from pickle import loads", "import pickle\npickle.loads(b)", "import dill as d", "torch.load(f)",
            "torch.load(f, weights_only=False)", "np.load(f)", "np.load(f, allow_pickle=True)", "pd.read_pickle(f)",
            "from joblib import load", "tar.extractall(p)", "eval(text)", "run(text, shell=True)"]  # fmt: skip
    assert [way for way in ways if not list(unsafe(ast.parse(way)))] == []
    safe = (
        "from joblib import cpu_count\ntorch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\nmodel.eval()"
    )
    assert list(unsafe(ast.parse(safe))) == []


def everything(folder: Path) -> dict[str, Any]:
    """The content of every file below a folder; of links, where they lead."""
    found = (file for file in folder.rglob("*") if not file.is_dir() or file.is_symlink())
    return {str(f.relative_to(folder)): os.readlink(f) if f.is_symlink() else f.read_bytes() for f in found}


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", "..\\escaped", "a\n"])
def test_a_setting_cannot_name_a_folder_elsewhere(name: str) -> None:
    described = json.loads(preset("lenet_300_100", profile="smoke").setting.to_json())
    for label in ("recipe", "profile"):
        with pytest.raises(SettingError, match=rf"^{label}: .* is not valid: string should match pattern"):
            Setting.from_json(json.dumps(described | {label: name}))


ELSEWHERE: list[dict[str, Any]] = [
    {"rewind": "5/../../../../../escaped"},
    {"method": "../../../escaped"},
    {"method": "/tmp/escaped"},
    {"replicate": "1"},
    {"level": True},
    {"order": [0]},
    {"orders": 0},
]


def test_a_result_that_tells_of_another_folder_is_refused_before_anything_is_written(
    copy: Done, tmp_path: Path
) -> None:
    """Copying weights makes the folder that a result names."""
    file = StudyStore(copy.store, copy.study.setting).saves(Training(1, "imp", 5, 1, 0)).folder / "result.json"
    result = files.read_json(file)
    for training in ELSEWHERE:
        files.write_json(file, result | {"training": result["training"] | training})
        before = everything(tmp_path)
        for use in (
            lambda: weights.carry(copy.store, tmp_path / "mine"),
            lambda: export_store(copy.store, tmp_path / "csv"),
        ):
            with pytest.raises(StoreError, match=r"result\.json does not tell of the training of its folder; delete"):
                use()
        assert everything(tmp_path) == before, training


def test_links_in_a_folder_of_records_are_read_and_nothing_is_written_where_they_lead(
    tiny: Done, tmp_path: Path
) -> None:
    export_store(tiny.store, tmp_path / "real")
    name = tiny.study.setting.name
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).symlink_to(tmp_path / "real" / name)
    shutil.copytree(tmp_path / "real", tmp_path / "mine")
    (tmp_path / "mine" / name / "records.csv").unlink()
    (tmp_path / "mine" / name / "records.csv").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("precious")
    theirs = everything(tmp_path / "theirs"), everything(tmp_path / "real")
    with pytest.raises(StoreError, match=r"records\.csv has the columns \['precious'\]"):
        import_folder(tmp_path / "theirs", tmp_path / "mine")
    import_folder(tmp_path / "theirs", tmp_path / "new")
    assert everything(tmp_path / "new") == everything(tmp_path / "real") | {
        ".lock": (tmp_path / "new" / ".lock").read_bytes()
    }
    assert (everything(tmp_path / "theirs"), everything(tmp_path / "real")) == theirs
    assert (tmp_path / "precious").read_text() == "precious"


TERABYTES = 2**44


def header(fields: dict[str, Any] | bytes, length: int | None = None) -> bytes:
    """A safetensors file of a header alone, which may claim another length than its own."""
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def tensor(shape: list[int], size: int, kind: str = "F32") -> dict[str, Any]:
    return {"w": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}


HUGE = {
    "a header of terabytes": header(b"{}", TERABYTES),
    "a header as long as a file can be": header(b"{}", 2**64 - 1),
    "a tensor of terabytes": header(tensor([TERABYTES // 4], TERABYTES)),
    "a shape that overflows": header(tensor([2**40, 2**40], 4)),
    "a tensor that ends before it begins": header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
    "a header of brackets": header(b"[" * 10_000),
}


@pytest.mark.parametrize("claim", HUGE)
def test_a_file_that_claims_terabytes_is_one_sentence_everywhere(claim: str, tmp_path: Path) -> None:
    file = tmp_path / "end.safetensors"
    file.write_bytes(HUGE[claim])
    readers: list[Callable[[Path], Any]] = [
        files.read_state,
        states.read_state,
        exchange.load_state,
        exchange.load_mask,
    ]
    for read in readers:
        with pytest.raises((StoreError, ValueError)) as refused:
            read(file)
        assert str(file) in str(refused.value)
        assert "\n" not in str(refused.value)


TREES = {
    "bits without end": {"dict": [["w", {"tensor": "w", "bits": [2**62]}]]},
    "bits beyond counting": {"dict": [["w", {"tensor": "w", "bits": [0, 10**30]}]]},
    "bits of a fraction": {"dict": [["w", {"tensor": "w", "bits": [1.5]}]]},
    "bits below zero": {"dict": [["w", {"tensor": "w", "bits": [-8, -1]}]]},
    "bits of text": {"dict": [["w", {"tensor": "w", "bits": "xx"}]]},
    "a key that is a list": {"dict": [[["w"], 1]]},
    "no tensor of that name": {"dict": [["w", {"tensor": "x"}]]},
    "an object of nothing": {"dict": [["w", {}]]},
    "text for pairs": {"dict": "text"},
    "a tree that is a number": 3,
    "text for bytes": {"dict": [["w", {"bytes": 7}]]},
}


@pytest.mark.parametrize("tree", TREES)
def test_a_tree_that_makes_no_state_is_one_sentence(tree: str, tmp_path: Path) -> None:
    tensors, text = {"w": torch.zeros(1, dtype=torch.uint8)}, json.dumps(TREES[tree])
    file = tmp_path / "state.safetensors"
    file.write_bytes(save(tensors, {"tree": text, "sha256": states._checksum(tensors, text)}))
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged, or not a file of lth_core \(") as refused:
        states.read_state(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("mask.npz", lambda mask, file: np.savez(file, **exchange.to_numpy(mask))),
        ("mask.pth", exchange.save_open_lth),
        ("theirs.safetensors", lambda mask, file: file.write_bytes(save(dict(mask)))),
        ("ours.safetensors", Mask.save),
    ],
)
def test_an_archive_that_is_torn_anywhere_is_one_sentence(
    name: str, write: Callable[[Mask, Path], object], tmp_path: Path
) -> None:
    file, mask = tmp_path / name, Mask({"w": torch.arange(64).reshape(8, 8) % 2})
    write(mask, file)
    content = file.read_bytes()
    assert exchange.load_mask(file) == mask
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cannot be read safely \(|holds no tensors by name") as refused:
            exchange.load_mask(file)
        assert str(file) in str(refused.value)
        assert "\n" not in str(refused.value)
