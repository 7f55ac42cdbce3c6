"""Weights that travel: a chain continued in another store gives the same bits as one that was not broken off."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Lth
from studies import assert_same_records, count_trainings, files

from lth_study import records
from lth_study.files import StoreError, read_json, write_json
from lth_study.presets import preset
from lth_study.runner import run
from lth_study.store import StudyStore, dense
from lth_study.weights import carry

BRIEF = {"levels": 3, "compared_levels": (3,), "barriers": False}
LENET = (
    preset("lenet_300_100", profile="smoke").only("stability").updated(**BRIEF, iterations=40, rewinds=(10,), orders=1)
)
CONTROLLED = LENET.updated(methods=("random_pruning",))
RESNET20 = preset("resnet20", profile="smoke").only("stability").updated(**BRIEF, orders=2)


def bits(store: Path) -> dict[str, bytes]:
    """Ends, masks and distances of every training of a store."""
    found = files(store, "end.safetensors", "mask.safetensors", "distances.json")
    return {name: file.read_bytes() for name, file in found.items()}


@pytest.mark.usefixtures("few_images")
def test_a_chain_continued_elsewhere_gives_the_bits_of_one_that_was_not_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lth: Lth
):
    """Of ResNet-20, with batch norm and momentum, and two data orders."""
    alone, here, there, weights = (tmp_path / name for name in ("alone", "here", "there", "weights"))
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results of alone"))
    at_once = run(RESNET20, store=alone, workers=1)

    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
    run(RESNET20.updated(levels=2, compared_levels=(2,)), store=here, workers=1)
    assert lth("export", "--store", str(here), "--weights", str(weights)).status == 0
    shutil.rmtree(here)
    exported = tmp_path / "exported"
    (tmp_path / "results").rename(exported)
    assert lth("import", str(exported), "--store", str(there), "--weights", str(weights)).status == 0

    trained = count_trainings(monkeypatch)
    continued = run(RESNET20, store=there, workers=1)
    assert {ticket.level for ticket in trained} == {3}
    assert_same_records(continued, at_once)
    expected, found = bits(alone), bits(there)
    assert {name for name in expected if "level_03" in name} <= found.keys()
    assert {name: found[name] for name in found if name in expected} == {n: expected[n] for n in found if n in expected}


@pytest.fixture
def store(tmp_path: Path, images_read_once: None) -> Path:
    """A chain of three levels, with a control at every one."""
    run(CONTROLLED.updated(compared_levels=(1, 2, 3)), store=tmp_path / "store", workers=1)
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
    shutil.rmtree(store / LENET.setting.name / "replicate_1/random_pruning/rewind_10/level_02")
    records.export_store(store, records.results_folder())
    carry(store, tmp_path / "elsewhere")
    trained = count_trainings(monkeypatch)
    run(CONTROLLED.updated(compared_levels=(2, 3)), store=tmp_path / "elsewhere", workers=1)
    assert [ticket.level for ticket in trained] == [2]


def test_a_damaged_mask_to_start_from_is_made_from_the_level_before(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    deeper = LENET.updated(levels=4, compared_levels=(), methods=("imp",))
    records.export_store(store, records.results_folder())
    carry(store, tmp_path / "elsewhere")
    expected = run(deeper, store=store, workers=1)
    mask = tmp_path / "elsewhere" / LENET.setting.name / "replicate_1/imp/rewind_10/level_03/order_0/mask.safetensors"
    mask.write_bytes(mask.read_bytes()[:-1])
    trained = count_trainings(monkeypatch)
    assert_same_records(run(deeper, store=tmp_path / "elsewhere", workers=1), expected)
    assert [ticket.level for ticket in trained] == [4]


def test_weights_of_other_images_are_refused(store: Path, tmp_path: Path):
    write_json(tmp_path / "elsewhere" / LENET.setting.name / "images.json", {"fingerprint": "others"})
    fingerprint = read_json(store / LENET.setting.name / "images.json")["fingerprint"]
    with pytest.raises(
        StoreError, match=rf"other images in .*store \(fingerprint {fingerprint}\) than in .*\(others\)"
    ):
        carry(store, tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="holds no runs"):
        carry(tmp_path / "nowhere", tmp_path / "elsewhere")


def test_a_chain_is_not_carried_to_another_dense_network(store: Path, tmp_path: Path):
    """W_k of one and the masks of the other would make a ticket that neither search found."""
    elsewhere = tmp_path / "elsewhere"
    nan = {"output.bias": torch.full((10,), math.nan)}  # as of a training that diverged
    carry(store, elsewhere)
    for each in (store, elsewhere):
        folder = StudyStore(each, LENET.setting).saves(dense(1))
        folder.finish(folder.result(), folder.load_end() | nan, folder.load_mask())
    carry(store, elsewhere)
    folder.finish(folder.result(), folder.load_end() | {"output.bias": torch.zeros(10)}, folder.load_mask())
    before = bits(elsewhere)
    with pytest.raises(StoreError, match=r"replicate 1 was trained apart in .*store and in .*elsewhere"):
        carry(store, elsewhere)
    assert bits(elsewhere) == before
