"""`lth tickets`: a packed ticket trains to the bits that are in the store, and its card says what it scored."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lth_core import Ticket, subnetwork
from lth_core.tickets import load_about, load_trained
from lth_study import Study, data, preset, run, seeds, trainer
from lth_study.cli import app
from lth_study.files import StoreError
from lth_study.networks import build, initial_weights
from lth_study.store import StudyStore, Training, dense
from lth_study.tickets import load, pack

BRIEF: dict[str, Any] = {"orders": 1, "barriers": False, "levels": 1, "rewinds": (0, 4)}
STUDIES = {
    "lenet_300_100": preset("lenet_300_100", profile="smoke").only("stability").updated(**BRIEF),
    "vgg19": preset("vgg19", profile="smoke")
    .only("stability")
    .updated(**BRIEF, width=0.125, iterations=10, drops=(5,)),
}


@pytest.fixture(scope="module", params=STUDIES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    folder = tmp_path_factory.mktemp("pack")
    run(STUDIES[request.param], store=folder, workers=1)
    return STUDIES[request.param], folder


def places(study: Study) -> list[Training]:
    return [Training(1, method, k, 1, 0) for method in ("imp", "random_pruning") for k in study.extent.rewinds]


def folder_of(training: Training, study: Study, packed: Path) -> Path:
    return packed / study.setting.name / f"{training.method}_rewind_{training.rewind}_level_01_replicate_1"


def test_a_packed_ticket_trains_to_the_recorded_bits(finished: tuple[Study, Path], tmp_path: Path) -> None:
    study, store = finished
    setting, kept = study.setting, StudyStore(store, study.setting)
    assert sorted(pack(study, store, tmp_path)) == sorted(folder_of(t, study, tmp_path) for t in places(study))
    images = data.load(setting.dataset, color=setting.network != "lenet_300_100", size=setting.image_size)
    for training in places(study):
        ticket = load(folder_of(training, study, tmp_path), setting)
        assert (ticket.iteration, ticket.level) == (training.rewind, 1)
        ended, metrics = trainer(setting, images, replicate=1)(ticket, None)
        end = kept.saves(training).load_end()
        assert all(torch.equal(ended[name], tensor) for name, tensor in end.items())
        assert metrics["test_accuracy"] == kept.saves(training).result()["metrics"]["test_accuracy"]


def test_the_weights_are_w_k_under_the_mask_and_the_moments_go_by_parameter(
    finished: tuple[Study, Path], tmp_path: Path
) -> None:
    study, store = finished
    pack(study, store, tmp_path)
    model = build(study.setting)
    for training in places(study):
        ticket = Ticket.load(folder_of(training, study, tmp_path))
        w_k = initial_weights(study.setting, seeds.stream(1, "init"))
        if training.rewind:
            w_k = StudyStore(store, study.setting).saves(dense(1)).load_state(training.rewind)
        expected = subnetwork(w_k, ticket.mask, 0, 0).weights
        names = [name for name, _ in model.named_parameters()]
        assert all(torch.equal(ticket.weights[name], expected[name]) for name in model.state_dict())
        for name, moments in ticket.weights.get("optimizer", {}).items():
            if isinstance(moments, dict):
                assert list(moments) == names
                kept = ticket.mask
                whole = w_k[f"optimizer.{name}"].split([p.numel() for p in model.parameters()])
                for each, piece in zip(names, whole, strict=True):
                    shape = moments[each].shape
                    here = piece.view(shape)
                    if len(shape) == 4:  # the study keeps filters with their channels last
                        here = piece.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
                    assert torch.equal(moments[each], here * kept[each] if each in kept else here)
        assert ("optimizer" in ticket.weights) == (training.rewind > 0)


def test_the_card_says_what_the_ticket_is_and_scored_and_its_command_asks_for_it(
    finished: tuple[Study, Path], tmp_path: Path
) -> None:
    study, store = finished
    pack(study, store, tmp_path)
    kept = StudyStore(store, study.setting)
    about = load_about(folder_of(Training(1, "imp", 4, 1, 0), study, tmp_path))
    for key, training in {
        "accuracy": Training(1, "imp", 4, 1, 0),
        "dense_accuracy": dense(1),
        "control_accuracy": Training(1, "random_pruning", 4, 1, 0),
    }.items():
        assert about[key] == kept.saves(training).result()["metrics"]["test_accuracy"]
    assert about["stability_to_pruning"]["l2"] > 0
    assert (about["digest"], about["seed"]) == (study.setting.digest(), 1)
    train, again = (shlex.split(line) for line in about["command"].splitlines())
    assert train[:3] == ["LTH_RESULTS=none", "lth", "run"]
    status = CliRunner().invoke(app, ["status", *train[3:], "--store", str(store)])
    assert "rewound to 4: 3 of 3" in status.output
    here = ["--store", str(store), "--destination", str(tmp_path / "again"), "--trained"]
    packed = CliRunner().invoke(app, [*again[1:], *here])
    assert packed.exit_code == 0, packed.output
    for method, title in (("imp", "# Lottery ticket: "), ("random_pruning", "# Random subnetwork: ")):
        training = Training(1, method, 4, 1, 0)
        first, second = (folder_of(training, study, tmp_path / name) for name in ("", "again"))
        assert Ticket.load(first).mask == Ticket.load(second).mask
        end, trained = kept.saves(training).load_end(), load_trained(second)
        assert end.keys() == trained.keys()
        assert all(torch.equal(end[name], trained[name]) for name in end)
        assert not (first / "trained.safetensors").exists()
        assert title in (first / "README.md").read_text()
        namespace: dict[str, Any] = {}
        exec(load_about(first)["build"], namespace)
        weights = {name: w for name, w in Ticket.load(first).weights.items() if name != "optimizer"}
        namespace["model"].load_state_dict(weights)


def test_a_store_without_tickets_is_refused_with_the_command_that_trains_them(tmp_path: Path) -> None:
    study = STUDIES["lenet_300_100"]
    with pytest.raises(StoreError, match=r"no finished ticket at levels \[1\]; train them with: lth run lenet_300_100"):
        pack(study, tmp_path, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
