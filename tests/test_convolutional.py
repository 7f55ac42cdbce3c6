"""Whole studies of convolutional networks: global and one-shot pruning, and rewinding with batch norm and momentum."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from studies import Done, finished, same_bits
from torch import Tensor

from lth_core import Mask, Ticket, one_shot_pruning, subnetwork
from lth_study import Study, preset, run, seeds
from lth_study.data.parts import Dataset
from lth_study.files import read_json
from lth_study.networks import build, initial_weights
from lth_study.plan import missing, trainings
from lth_study.records import known
from lth_study.settings import Setting
from lth_study.store import StudyStore, Training, TrainingFolder, dense
from lth_study.training.train import Trained, train
from lth_study.trainings import Trainings, images_of
from lth_study.worker import Worker

State = Mapping[str, Tensor]
pytestmark = pytest.mark.usefixtures("few_images")


def settings(network: str, profile: str = "smoke", **changes: Any) -> Study:
    recipe = "warmup" if network == "resnet20" else "standard"
    return preset(network, recipe, profile).only("stability").updated(**changes)


def of(done: Done, training: str) -> TrainingFolder:
    return TrainingFolder(done.folder / "replicate_1" / training)


def mask_of(done: Done, method: str, rewind: int, level: int) -> Mask:
    return of(done, f"{method}/rewind_{rewind}/level_0{level}/order_0").load_mask()


def iterations(done: Done) -> dict[str, int]:
    """The updates of every training, by its folder."""
    files = done.folder.rglob("result.json")
    return {str(f.parent.relative_to(done.folder)): read_json(f)["provenance"]["iterations"] for f in files}


@pytest.fixture(scope="module")
def smoke(few_images: None, tmp_path_factory: pytest.TempPathFactory, embedded_mnist: Dataset) -> Done:
    """ResNet-20's whole smoke profile, done once; not to be changed."""
    return finished(settings("resnet20", barriers=False), tmp_path_factory.mktemp("resnet20"), embedded_mnist)


def fresh(setting: Setting, purpose: str = "init") -> dict[str, Tensor]:
    return initial_weights(setting, seeds.stream(1, purpose))


def is_reinit(ticket: Ticket, setting: Setting) -> bool:
    return torch.equal(ticket.weights["output.weight"], fresh(setting, "reinit")["output.weight"])


def largest_kept(weights: State, mask: Mask) -> bool:
    """Whether a mask keeps the largest weights of all layers together."""
    kept = torch.cat([weights[name][mask[name]].abs() for name in mask])
    return bool(kept.min() >= torch.cat([weights[name][~mask[name]].abs() for name in mask]).max())


# Iterative pruning


def test_global_pruning_keeps_exactly_the_largest_weights_of_all_layers_together(smoke: Done):
    total = survivors = 16_812
    for level in (0, 1, 2):
        found = smoke.records[smoke.records["level"] == level]["density"]
        assert (found == float(f"{survivors / total:.7g}")).all()  # as it is in files
        survivors -= round(0.2 * survivors)
    for rewind in (0, 4):
        mask = mask_of(smoke, "imp", rewind, 1)
        assert largest_kept(of(smoke, "dense").load_end(), mask)
        assert len(set(mask.density_by_layer().values())) > 2


def test_everything_is_rewound_bit_for_bit_but_the_pruned_weights(smoke: Done):
    """Weights, statistics of batch norm and momentum; a reinitialised control is fresh and begins at 0."""
    setting, images = smoke.study.setting, images_of(smoke.study.setting)
    whole = subnetwork(fresh(setting), Mask.ones(build(setting)), 0, 0)
    w_4 = train(setting, images, whole, replicate=1, order=0, stop=4).state
    assert all(count == 4 for name, count in w_4.items() if name.endswith("num_batches_tracked"))
    tickets = [ticket for ticket in smoke.trained if ticket.level]
    reinitialised = [is_reinit(ticket, setting) for ticket in tickets]
    assert sum(reinitialised) == 2
    assert {(t.iteration, t.level) for t in tickets} == {(0, 1), (0, 2), (4, 1), (4, 2)}
    for ticket, control in zip(tickets, reinitialised, strict=True):
        w_k = fresh(setting, "reinit") if control else w_4 if ticket.iteration else fresh(setting)
        kept = {name: ticket.mask.get(name, torch.ones((), dtype=torch.bool)) for name in w_k}
        assert same_bits(ticket.weights, {name: tensor * kept[name] for name, tensor in w_k.items()})
        assert ticket.iteration == 0 or not control


SHORT: dict[str, Any] = {"levels": 1, "orders": 1, "methods": ("imp",), "compared_levels": ()}


def test_a_fresh_optimiser_matters_after_iteration_0_and_not_at_it(tmp_path: Path, embedded_mnist: Dataset):
    restored, reset = (
        finished(settings("resnet20", **SHORT, rewind_optimizer=choice), tmp_path / choice, embedded_mnist)
        for choice in ("restored", "fresh")
    )
    ends = {k: [of(d, f"imp/rewind_{k}/level_01/order_0").load_end() for d in (restored, reset)] for k in (0, 4)}
    assert same_bits(*ends[0])
    assert not torch.equal(ends[4][0]["stem.0.weight"], ends[4][1]["stem.0.weight"])
    for done, has in ((restored, True), (reset, False)):
        (late,) = (ticket for ticket in done.trained if ticket.iteration == 4)
        assert ("optimizer.momentum_buffer" in late.weights) == has
        assert int(late.weights["stem.1.num_batches_tracked"]) == 4


def test_a_reinitialised_ticket_can_train_for_what_remains_after_the_rewind(tmp_path: Path, embedded_mnist: Dataset):
    changes = SHORT | {"methods": ("random_reinit",), "compared_levels": (1,), "reinit_length": "remaining"}
    done = finished(settings("resnet20", **changes), tmp_path, embedded_mnist)
    tickets = [ticket for ticket in done.trained if is_reinit(ticket, done.study.setting)]
    assert [ticket.iteration for ticket in tickets] == [0, 4]
    assert all("optimizer.momentum_buffer" not in ticket.weights for ticket in tickets)
    lengths = {k: iterations(done)[f"replicate_1/random_reinit/rewind_{k}/level_01/order_0"] for k in (0, 4)}
    assert lengths == {0: 12, 4: 8}
    expected = dict(train(done.study.setting, images_of(done.study.setting), tickets[1], replicate=1, order=0).state)
    del expected["optimizer.momentum_buffer"]  # which the end of a training is kept without
    assert same_bits(of(done, "random_reinit/rewind_4/level_01/order_0").load_end(), expected)


# One-shot pruning


def test_one_shot_pruning_keeps_exactly_the_largest_of_more_weights_than_float32_counts():
    with torch.device("meta"):
        model = build(settings("resnet50", "paper").setting)
    named, chance = dict(model.named_parameters()), torch.Generator().manual_seed(3)
    weights = {name: torch.randn(named[name].shape, generator=chance) for name in model.prunable()}
    magnitudes = np.abs(np.concatenate([weight.numpy().ravel() for weight in weights.values()]))
    ranked = np.sort(magnitudes)
    levels = one_shot_pruning(
        lambda ticket, stop: (ticket.weights, None), weights, Mask.ones(weights), densities=(0.8, 0.05)
    )
    for level, count in zip(list(levels)[1:], (18_763_930, 1_172_746), strict=True):
        kept = np.concatenate([level.mask[name].numpy().ravel() for name in weights])
        assert int(kept.sum()) == count
        assert magnitudes[kept].min() == ranked[-count]


ONE_SHOT: dict[str, Any] = {"methods": ("imp",), "orders": 1, "rewinds": (2,)}


def one_shot() -> Study:
    return settings("squeezenet1_0", **ONE_SHOT, densities=(0.6, 0.2))


def test_a_study_prunes_the_dense_network_once_to_each_density(tmp_path: Path):
    store = StudyStore(tmp_path, one_shot().setting)
    records = run(one_shot(), store=tmp_path, workers=1)
    end = store.saves(dense(1)).load_end()
    for level, density in ((1, 0.6), (2, 0.2)):
        mask = store.saves(Training(1, "imp", 2, level, 0)).load_mask()
        assert mask.survivors == mask.size - round((1 - density) * mask.size)
        assert largest_kept(end, mask)
    levels = records[records["method"] == "imp"].groupby("level")["density"].first()
    assert levels.tolist() == pytest.approx([0.6, 0.2], abs=1e-5)


def test_a_level_that_diverges_keeps_no_other_density_from_being_trained(tmp_path: Path, monkeypatch):
    def diverges_at_the_first_level(setting: Setting, images: Dataset, ticket: Ticket, **options: Any) -> Trained:
        trained = train(setting, images, ticket, **options)
        return replace(trained, metrics={}, diverged_at=3) if ticket.level == 1 else trained

    monkeypatch.setattr("lth_study.trainings.train", diverges_at_the_first_level)
    store = StudyStore(tmp_path, one_shot().setting)
    store.prepare()
    Worker(Trainings(store)).complete(trainings(one_shot()))
    rows = known(store.setting, store.store)[0]
    assert set(rows.loc[rows["metric"] == "test_accuracy", "level"]) == {0, 2}
    assert set(rows.loc[rows["metric"] == "diverged", "level"]) == {1}
    assert [training for training in missing(rows, one_shot()) if not training.again] == []
    assert {training.level for training in missing(rows[rows["level"] != 2], one_shot())} == {2}
