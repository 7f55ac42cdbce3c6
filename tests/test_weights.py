"""Weights that travel: a chain continued in another store gives the same bits as one that was not broken off."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lth_study import plan, records
from lth_study.__main__ import entry
from lth_study.extents import Study
from lth_study.files import StoreError, read_json, write_json
from lth_study.presets import preset
from lth_study.runner import run
from lth_study.store import StudyStore, Training, dense
from lth_study.training.train import train
from lth_study.weights import carry

DEEP = {"levels": 4, "compared_levels": (4,), "orders": 2, "barriers": False}
LENET = preset("lenet_300_100", profile="smoke").only("stability").updated(**DEEP, iterations=40, rewinds=(0, 10))
RESNET20 = preset("resnet20", profile="smoke").only("stability").updated(**DEEP)


def to_level_2(study: Study) -> Study:
    return study.updated(levels=2, compared_levels=(2,))


def bits(store: Path, study: Study) -> dict[str, bytes]:
    """Ends, masks and distances of every training of a store."""
    names = ("end.safetensors", "mask.safetensors", "distances.json")
    folder = store / study.setting.name
    return {str(f.relative_to(folder)): f.read_bytes() for name in names for f in folder.rglob(name)}


def trained_levels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The levels of what is trained from now on."""
    levels: list[int] = []

    def counted(setting: Any, dataset: Any, ticket: Any, **options: Any) -> Any:
        levels.append(ticket.level)
        return train(setting, dataset, ticket, **options)

    monkeypatch.setattr("lth_study.trainings.train", counted)
    return levels


def lth(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lth", *arguments])
    with pytest.raises(SystemExit) as left:
        entry()
    assert not left.value.code


@pytest.mark.parametrize("study", [LENET, RESNET20], ids=["lenet_300_100", "resnet20"])
def test_a_chain_continued_elsewhere_gives_the_bits_of_one_that_was_not_broken_off(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alone, here, there, weights = (tmp_path / name for name in ("alone", "here", "there", "weights"))
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results of alone"))
    at_once = run(study, store=alone, workers=1)

    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
    run(to_level_2(study), store=here, workers=1)
    lth(monkeypatch, "export", "--store", str(here), "--weights", str(weights))
    shutil.rmtree(here)
    exported = tmp_path / "exported"
    (tmp_path / "results").rename(exported)
    lth(monkeypatch, "import", str(exported), "--store", str(there), "--weights", str(weights))

    levels = trained_levels(monkeypatch)
    continued = run(study, store=there, workers=1)
    assert set(levels) == {3, 4}
    pd.testing.assert_frame_equal(continued.drop(columns="finished"), at_once.drop(columns="finished"))
    expected, found = bits(alone, study), bits(there, study)
    deep = {name for name in expected if "level_03" in name or "level_04" in name}
    assert deep <= found.keys()
    assert {name: found[name] for name in found if name in expected} == {n: expected[n] for n in found if n in expected}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A chain of three levels, with a control at every one."""
    study = LENET.updated(rewinds=(10,), levels=3, compared_levels=(1, 2, 3), methods=("random_pruning",), orders=1)
    run(study, store=tmp_path / "store", workers=1)
    return tmp_path / "store"


def test_what_is_carried_is_w_k_the_dense_network_and_the_deepest_levels(store: Path, tmp_path: Path):
    assert carry(store, tmp_path / "weights") == [f"{LENET.setting.name}: 1 dense networks and 1 chains"]
    study = tmp_path / "weights" / LENET.setting.name
    files = {str(file.relative_to(study)) for file in study.rglob("*") if file.is_file() and file.name != ".lock"}
    states = {"end.safetensors", "mask.safetensors", "result.json"}
    level = "replicate_1/imp/rewind_10/level_0{}/order_0"
    assert files == {
        "config.json",
        "images.json",
        "replicate_1/dense/iteration_10.safetensors",
        *(f"{folder}/{name}" for folder in ("replicate_1/dense", level.format(2), level.format(3)) for name in states),
    }
    kept = {file: file.stat().st_mtime_ns for file in study.rglob("*.safetensors")}
    carry(store, tmp_path / "weights")
    assert {file: file.stat().st_mtime_ns for file in study.rglob("*.safetensors")} == kept


def test_a_control_that_was_broken_off_does_not_repeat_its_chain(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its level's mask is among what is carried, though the chain is one level deeper."""
    study = LENET.updated(rewinds=(10,), levels=3, compared_levels=(2, 3), methods=("random_pruning",), orders=1)
    shutil.rmtree(store / LENET.setting.name / "replicate_1/random_pruning/rewind_10/level_02")
    records.export_store(store, records.results_folder())
    carry(store, tmp_path / "elsewhere")
    levels = trained_levels(monkeypatch)
    run(study, store=tmp_path / "elsewhere", workers=1)
    assert levels == [2]


def test_a_damaged_mask_to_start_from_is_made_from_the_level_before(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    deeper = LENET.updated(rewinds=(10,), levels=4, compared_levels=(), methods=("imp",))
    records.export_store(store, records.results_folder())
    carry(store, tmp_path / "elsewhere")
    expected = run(deeper, store=store, workers=1)
    mask = tmp_path / "elsewhere" / LENET.setting.name / "replicate_1/imp/rewind_10/level_03/order_0/mask.safetensors"
    mask.write_bytes(mask.read_bytes()[:-1])
    levels = trained_levels(monkeypatch)
    continued = run(deeper, store=tmp_path / "elsewhere", workers=1)
    pd.testing.assert_frame_equal(continued.drop(columns="finished"), expected.drop(columns="finished"))
    assert levels == [4]


def test_weights_of_other_images_are_refused(store: Path, tmp_path: Path):
    write_json(tmp_path / "elsewhere" / LENET.setting.name / "images.json", {"fingerprint": "others"})
    fingerprint = read_json(store / LENET.setting.name / "images.json")["fingerprint"]
    with pytest.raises(
        StoreError, match=rf"other images in .*store \(fingerprint {fingerprint}\) than in .*\(others\)"
    ):
        carry(store, tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="holds no runs"):
        carry(tmp_path / "nowhere", tmp_path / "elsewhere")


def test_levels_below_a_complete_one_are_not_needed():
    chain = [Training(1, "imp", 0, level, 0) for level in range(1, 5)]
    study = LENET.updated(rewinds=(0,), methods=("imp",), orders=1)
    assert plan.needed([chain[3]], [], study) == [dense(1), *chain]
    assert plan.needed([chain[3]], [], study, {chain[1]}) == [dense(1), *chain[1:]]
    assert plan.needed([chain[0], chain[3]], [], study, {chain[1]}) == [dense(1), *chain]
    assert plan.needed([chain[3]], [], study, {Training(1, "imp", 20, 3, 0), dense(1)}) == [dense(1), *chain]
    assert StudyStore(Path(), study.setting).saves(chain[0]).kept_states() == []
