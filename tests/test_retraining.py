"""What to rewind, as methods of the study: weights, the learning rate alone, or nothing (arXiv 2003.02389)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from studies import SMOKE, Done, finished, states
from torch import Tensor

from lth_study import plan, preset, run
from lth_study.data.parts import Dataset
from lth_study.store import Training, dense
from lth_study.weights import carry

RETRAINED = ("learning_rate_rewinding", "fine_tuning")
STUDY = SMOKE.updated(
    iterations=20, rewinds=(5,), methods=("imp", *RETRAINED), orders=1, compared_levels=(2,), barriers=False
)
START = {"imp": 5, "learning_rate_rewinding": 5, "fine_tuning": 20}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, embedded_mnist: Dataset) -> Done:
    return finished(STUDY, tmp_path_factory.mktemp("retraining"), embedded_mnist)


def file_of(done: Done, method: str, level: int, what: str) -> dict[str, Tensor]:
    folder = f"{method}/rewind_5/level_{level:02d}/order_0" if level else "dense"
    return load_file(done.folder / "replicate_1" / folder / f"{what}.safetensors")


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("method", RETRAINED)
def test_a_ticket_keeps_the_trained_weights_of_its_own_last_level(method: str, level: int, done: Done):
    before, mask = file_of(done, method, level - 1, "end"), file_of(done, method, level, "mask")
    masks = [t for t in done.trained if all(torch.equal(t.mask[name], mask[name]) for name in mask)]
    (ticket,) = [
        t for t in masks if t.iteration == START[method] and torch.equal(t.weights["fc1.bias"], before["fc1.bias"])
    ]
    for name, weight in before.items():
        assert torch.equal(ticket.weights[name], weight * mask.get(name, torch.tensor(1.0)))
    assert not any(name.startswith("optimizer") for name in ticket.weights)  # moments start anew


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("method", RETRAINED)
def test_a_level_prunes_the_smallest_weights_of_its_own_last_level(method: str, level: int, done: Done):
    """LeNet's preset prunes a fifth of each layer, and a tenth of the last."""
    end, mask = file_of(done, method, level - 1, "end"), file_of(done, method, level, "mask")
    for name, rate in (("fc1.weight", 0.2), ("fc2.weight", 0.2), ("output.weight", 0.1)):
        alive = torch.ones_like(mask[name]) if level == 1 else file_of(done, method, level - 1, "mask")[name]
        assert mask[name].sum() == alive.sum() - round(rate * int(alive.sum()))
        assert not (mask[name] & ~alive).any()
        assert end[name][mask[name]].abs().min() >= end[name][alive & ~mask[name]].abs().max()


def test_every_level_is_trained_for_as_many_iterations_and_recorded(done: Done):
    accuracy = done.records[done.records["metric"] == "test_accuracy"]
    assert accuracy.groupby("method").size().to_dict() == {"dense": 1} | dict.fromkeys(START, 2)
    assert not done.records["metric"][done.records["method"].isin(RETRAINED)].str.contains("l2|angle").any()
    for training in plan.trainings(STUDY):
        assert plan.length(training, STUDY.setting) == (15 if training.level else 20)
    assert len(done.trained) == 7
    assert run(done.study, store=done.store, workers=1, missing="error").equals(done.records)


def test_a_search_that_is_broken_off_goes_on_with_the_same_bits(done: Done, tmp_path: Path, embedded_mnist: Dataset):
    once = finished(STUDY.updated(levels=1, compared_levels=(1,)), tmp_path, embedded_mnist)
    before = len(once.trained)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
        run(STUDY, store=once.store, workers=1)
    assert before == 4
    assert states(once.folder) == states(done.folder)


def test_a_copy_of_the_weights_to_continue_from_has_every_chain(done: Done, tmp_path: Path):
    (line,) = carry(done.store, tmp_path)
    assert line.endswith("1 dense networks and 3 chains")
    copied = {file.parent.relative_to(tmp_path) for file in tmp_path.rglob("*/level_*/order_0/end.safetensors")}
    assert copied == {done.folder.relative_to(done.store) / t.folder for t in plan.trainings(STUDY) if t.level}


def test_needed_takes_a_chain_from_its_own_deepest_level():
    study = SMOKE.updated(levels=4, compared_levels=(4,), rewinds=(5,), methods=("imp", "fine_tuning"), orders=1)
    own, others = [Training(1, "fine_tuning", 5, n, 0) for n in range(1, 5)], (("imp", 5), ("fine_tuning", 0))
    there = {dense(1), own[1], *(Training(1, method, k, 3, 0) for method, k in others)}
    assert plan.needed(own[3:], [], study, there) == [dense(1), *own[1:]]


@pytest.mark.parametrize(
    ("gone", "lost"),
    [
        (Training(1, "fine_tuning", 5, 1, 0), {("fine_tuning", 1), ("fine_tuning", 2)}),
        (Training(1, "imp", 5, 2, 0), {("imp", 2)}),
        (dense(1), {(method, level) for method in ("imp", "fine_tuning") for level in (1, 2)} | {("dense", 0)}),
    ],
)
def test_what_diverged_loses_its_own_chain_alone(gone: Training, lost: set[tuple[str, int]], done: Done):
    study = STUDY.updated(methods=("imp", "fine_tuning"))
    row: dict[str, Any] = {"replicate": 1, "method": gone.method, "rewind": gone.rewind, "level": gone.level}
    records = done.records.head(1).assign(**row, order="0", metric="diverged", value=3.0)
    assert {(t.method, t.level) for t in plan.lost(records, study)} == lost


def test_a_one_shot_network_is_fine_tuned_at_every_density(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
    study = preset("squeezenet1_0", profile="smoke").only("stability")
    study = study.updated(rewinds=(1,), methods=("imp", "fine_tuning"), orders=1, barriers=False, iterations=2)
    records = run(study, store=tmp_path, workers=1)
    levels = set(records.query("method == 'fine_tuning' and metric == 'test_accuracy'")["level"])
    assert levels == set(range(1, study.extent.levels + 1))
    (folder,) = tmp_path.glob("*/replicate_1")
    dense_end = load_file(folder / "dense/end.safetensors")
    for level in levels:
        mask = load_file(folder / f"fine_tuning/rewind_1/level_{level:02d}/order_0/mask.safetensors")
        kept = torch.cat([mask[name].flatten() for name in mask])
        size = torch.cat([dense_end[name].abs().flatten() for name in mask])
        assert size[kept].min() >= size[~kept].max()
