"""The tickets in `results/tickets`: whole, small, as recorded, and trained from the same first steps to the same ends.

`LTH_FULL=1` trains two rewound tickets to their ends as well, and looks at every trained state: a few minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from project import ROOT
from safetensors.numpy import load_file
from test_unchanged import machine
from typer.testing import CliRunner

from lth_core import Ticket, load_about, load_trained
from lth_core.card import card
from lth_study import Setting, Study, data, networks, plan, trainer
from lth_study.cli import app
from lth_study.data.parts import Dataset
from lth_study.store import Training
from lth_study.tables import read
from lth_study.tickets import committed_table, load

RESULTS = ROOT / "results"
LENET, RESNET20 = "lenet_300_100-standard-paper-mnist-7a0d53d5f65f", "resnet20-standard-laptop-cifar10-3c1ef8b09e22"
TRAININGS = {
    study: [Training(r, method, k, level, 0) for r, method, k in product((1, 2, 3), ("imp", "random_pruning"), rewinds)]
    for study, rewinds, level in ((LENET, (0, 5000), 10), (RESNET20, (0, 25), 8))
}
REWOUND = {LENET: "imp_rewind_5000_level_10_replicate_1", RESNET20: "imp_rewind_25_level_08_replicate_1"}
STARTS = {
    "Intel(R) Xeon(R) Processor (AVX512), instructions 9e8fdfa2, torch 2.14.1+cu130": {
        LENET: (200, "29c23c943862caca077141046d638b51b0b7866ef0f18d2a38417a4ffc2346f0"),
        RESNET20: (20, "54ba594758e454d200ccb77a9d314f416b522ed5b166c47d037a40e80158332a"),
    }
}
"""Kind of processor -> study -> a number of iterations, and a checksum of the rewound ticket's state after them."""

each_study = pytest.mark.parametrize("study", TRAININGS)


def folder_of(study: str, training: Training) -> Path:
    name = f"{training.method}_rewind_{training.rewind}_level_{training.level:02d}_replicate_{training.replicate}"
    return RESULTS / "tickets" / study / name


def setting_of(study: str) -> Setting:
    return Setting.from_json((RESULTS / study / "config.json").read_text())


@pytest.fixture
def images(study: str, request: pytest.FixtureRequest) -> Dataset:
    """The real images of a study; the test is skipped where there are none."""
    request.getfixturevalue("real_mnist" if study == LENET else "real_cifar10")
    return read_once(study)


@cache
def read_once(study: str) -> Dataset:
    setting = setting_of(study)
    return data.load(setting.dataset, color=study == RESNET20, size=setting.image_size)


def test_there_are_three_seeds_of_each_ticket_and_control_and_they_are_small() -> None:
    expected = {folder_of(study, training) for study, trainings in TRAININGS.items() for training in trainings}
    assert set((RESULTS / "tickets").glob("*/*")) == expected
    assert sum(file.stat().st_size for file in (RESULTS / "tickets").rglob("*.*")) < 12_000_000


@each_study
def test_a_ticket_is_whole_and_its_card_is_its_own(study: str) -> None:
    for training in TRAININGS[study]:
        folder = folder_of(study, training)
        ticket, facts = Ticket.load(folder), json.loads((folder / "ticket.json").read_text())
        assert (ticket.iteration, ticket.level) == (training.rewind, training.level)
        assert ("optimizer" in ticket.weights) == (training.rewind > 0)
        packed = load_file(folder / "mask.safetensors")
        survivors = {name: int(np.unpackbits(bits).sum()) for name, bits in packed.items()}
        sizes = {name: ticket.weights[name].numel() for name in packed}
        assert facts["density_by_layer"] == {name: survivors[name] / sizes[name] for name in facts["density_by_layer"]}
        assert facts["density"] == sum(survivors.values()) / sum(sizes.values())
        assert (folder / "trained.safetensors").exists() == (training.replicate == 1)

        about = load_about(folder)
        namespace: dict[str, Any] = {}
        exec(about["build"], namespace)
        namespace["model"].load_state_dict({n: w for n, w in ticket.weights.items() if n != "optimizer"})
        assert (about["digest"], about["seed"]) == (setting_of(study).digest(), training.replicate)
        told = {key: value for key, value in facts.items() if key not in ("checksums", "about")}
        assert (folder / "README.md").read_text() == card(told, about)


@each_study
def test_a_card_says_what_the_records_say(study: str) -> None:
    """LeNet's tickets come from another kind of processor than its records: accuracies agree within a point."""
    records, provenance = read(RESULTS, setting_of(study))

    def rows(table: Any, **where: Any) -> Any:
        return table[(table[list(where)] == where).all(axis=1)]

    def value(metric: str, **where: Any) -> float:
        return float(rows(records, metric=metric, **where)["value"].item())

    for training in TRAININGS[study]:
        about = load_about(folder_of(study, training))
        at = {"rewind": training.rewind, "replicate": training.replicate, "level": training.level}
        dense = {"method": "dense", "rewind": 0, "replicate": training.replicate, "level": 0, "order": "0"}
        recorded = {
            "accuracy": value("test_accuracy", method=training.method, **at, order="0"),
            "dense_accuracy": value("test_accuracy", **dense),
            "control_accuracy": value("test_accuracy", method="random_pruning", **at, order="0"),
        }
        (made,) = rows(provenance, method=training.method, **at, order="0").itertuples()
        assert about["fingerprint"] == made.data_fingerprint
        same = about["device"] == made.device
        assert same == (study == RESNET20)
        assert {name: about[name] for name in recorded} == pytest.approx(recorded, abs=1e-9 if same else 1)
        if same:
            for key, order in (("pruning", "0"), ("data_order", "0-1")):
                found = {of: value(f"{of}_{key}", method=training.method, **at, order=order) for of in ("l2", "angle")}
                assert about[f"stability_to_{key}"] == pytest.approx(found, abs=1e-4)


@each_study
def test_the_commands_of_a_card_ask_for_its_ticket(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Study] = []
    monkeypatch.setattr("lth_study.runner.train_missing", lambda study, *_, **__: asked.append(study))
    monkeypatch.setattr("lth_study.tickets.pack", lambda study, *_: asked.append(study) or [])
    for training in TRAININGS[study]:
        asked.clear()
        for line in load_about(folder_of(study, training))["command"].removeprefix("LTH_RESULTS=none ").splitlines():
            ran = CliRunner().invoke(app, shlex.split(line)[1:])
            assert ran.exit_code == 0, ran.output
        trained, packed = asked
        assert trained.setting.name == packed.setting.name == study
        assert training in plan.trainings(trained)
        assert training in plan.trainings(packed)
        assert packed.extent.compared == (training.level,)


@each_study
def test_the_trained_states_score_what_their_cards_say(study: str, images: Dataset) -> None:
    folders = [folder_of(study, training) for training in TRAININGS[study] if training.replicate == 1]
    for folder in folders if os.environ.get("LTH_FULL") else [RESULTS / "tickets" / study / REWOUND[study]]:
        model = networks.build(setting_of(study)).eval()
        model.load_state_dict(load_trained(folder))
        with torch.no_grad():
            guesses = torch.cat([model(some).argmax(1) for some in images.test.images.split(1000)])
        accuracy = 100 * float((guesses == images.test.labels).double().mean())
        assert accuracy == pytest.approx(load_about(folder)["accuracy"], abs=0.05)


@each_study
def test_a_rewound_ticket_takes_the_same_first_steps(study: str, images: Dataset) -> None:
    if machine() not in STARTS:
        pytest.skip(f"there are no checksums of {machine()}; LTH_FULL=1 compares accuracy there")
    iterations, expected = STARTS[machine()][study]
    setting = setting_of(study)
    ticket = load(RESULTS / "tickets" / study / REWOUND[study], setting)
    state, _ = trainer(setting, images, replicate=1)(ticket, ticket.iteration + iterations)
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {tuple(state[name].shape)} ".encode())
        digest.update(state[name].contiguous().numpy().tobytes())
    assert digest.hexdigest() == expected


@pytest.mark.skipif(not os.environ.get("LTH_FULL"), reason="takes a few minutes; LTH_FULL=1 asks for it")
@each_study
def test_a_rewound_ticket_trains_to_its_recorded_end(study: str, images: Dataset) -> None:
    folder, setting = RESULTS / "tickets" / study / REWOUND[study], setting_of(study)
    state, metrics = trainer(setting, images, replicate=1)(load(folder, setting), None)
    assert metrics["test_accuracy"] == pytest.approx(load_about(folder)["accuracy"], abs=0.5)
    if machine() in STARTS:
        assert all(torch.equal(state[name], weight) for name, weight in load_trained(folder).items())


def test_the_table_lists_every_ticket_with_its_cards_numbers() -> None:
    table = committed_table()
    assert len(table) == 24
    row = table.loc[(RESNET20, "imp_rewind_25_level_08_replicate_2")].to_dict()
    about = load_about(folder_of(RESNET20, Training(2, "imp", 25, 8, 0)))
    assert row.pop("kB") == pytest.approx(11.9 + 144.0 + 7, abs=1)
    assert row == {
        "weights left (%)": 16.8,
        "test accuracy (%)": about["accuracy"],
        "dense network's": about["dense_accuracy"],
        "random pruning's": about["control_accuracy"],
        "L2 to the dense network": round(about["stability_to_pruning"]["l2"], 1),
        "L2 between data orders": round(about["stability_to_data_order"]["l2"], 1),
    }
