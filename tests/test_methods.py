"""Methods: pruning at initialisation and its sanity checks in the study, and a method of one's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from studies import SMOKE, Done, finished
from torch import Tensor
from torch.nn import functional as F

from lth_core import Mask, Ticket
from lth_study import SettingError, plan, preset, run, seeds
from lth_study.data.parts import Dataset
from lth_study.methods import TABLE
from lth_study.networks import initial_weights
from lth_study.report.effects import parse
from lth_study.store import Training

LAYERS = ("fc1.weight", "fc2.weight", "output.weight")
KEPT = 150_528 + 19_200 + 810
"""The weights of LeNet that IMP keeps at level 2, by the rates of its layers."""
SCORES = ("magnitude_at_init", "snip", "grasp", "synflow")
STUDY = SMOKE.updated(
    rewinds=(0,), iterations=4, methods=("imp", *[m for m in TABLE if m.startswith(SCORES)]), orders=1
)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, embedded_mnist: Dataset) -> Done:
    """LeNet pruned at initialisation by every score, with all checks, and trained for four iterations."""
    return finished(STUDY.updated(barriers=False), tmp_path_factory.mktemp("methods"), embedded_mnist)


def mask_of(done: Done, method: str, level: int = 2) -> dict[str, NDArray[np.bool_]]:
    return load_file(done.folder / f"replicate_1/{method}/rewind_0/level_{level:02d}/order_0/mask.safetensors")


def flat(tensors: dict[str, NDArray[np.bool_]] | Weights) -> NDArray[np.generic]:
    return np.concatenate([np.asarray(tensors[name]).ravel() for name in LAYERS])


def initial(stream: str = "init") -> Weights:
    """In double precision."""
    return {n: w.double() for n, w in initial_weights(STUDY.setting, seeds.stream(1, stream)).items()}


def batch(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(data.train), generator=seeds.stream(1, "examples for scores"))[:count]
    return data.train.images[order].double() / 255, data.train.labels[order]


def ten_of_each_class(data: Dataset) -> tuple[Tensor, Tensor]:
    images, labels = batch(data, len(data.train))
    positions = [(labels == label).nonzero().flatten()[:10] for label in range(10)]
    assert [len(each) for each in positions] == [10] * 10
    return images[torch.cat(positions)], labels[torch.cat(positions)]


def gradients(weights: Weights, images: Tensor, labels: Tensor, temperature: float = 1.0) -> Weights:
    """Of the mean cross-entropy of LeNet written out."""
    w = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    hidden = images.flatten(1)
    for layer in ("fc1", "fc2"):
        hidden = torch.relu(hidden @ w[f"{layer}.weight"].T + w[f"{layer}.bias"])
    logits = hidden @ w["output.weight"].T + w["output.bias"]
    F.cross_entropy(logits / temperature, labels).backward()
    found = {name: w[name].grad for name in LAYERS}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def magnitude_by_hand(data: Dataset) -> NDArray[np.generic]:
    return np.abs(flat(initial()))


def snip_by_hand(data: Dataset) -> NDArray[np.generic]:
    weights = initial()
    return np.abs(flat(gradients(weights, *batch(data, 60))) * flat(weights))


def grasp_by_hand(data: Dataset) -> NDArray[np.generic]:
    """H g as the difference of gradients a little up and down along g."""
    weights, examples = initial(), ten_of_each_class(data)
    g = gradients(weights, *examples, temperature=200)
    step = 1e-3
    up, down = (
        gradients({n: w + sign * step * g.get(n, 0) for n, w in weights.items()}, *examples, temperature=200)
        for sign in (1, -1)
    )
    return flat(weights) * (flat(up) - flat(down)) / (2 * step)


BY_HAND = {"magnitude_at_init": magnitude_by_hand, "snip": snip_by_hand, "grasp": grasp_by_hand}


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("method", BY_HAND)
def test_one_shot_scores_keep_the_weights_that_they_rank_highest(
    method: str, inverted: bool, done: Done, embedded_mnist: Dataset
):
    """Up to a few in 10,000 that rounding to float32 puts on the other side."""
    scores = BY_HAND[method](embedded_mnist) * (-1 if inverted else 1)
    expected = np.zeros(scores.size, dtype=bool)
    expected[np.argsort(scores, kind="stable")[scores.size - KEPT :]] = True
    found = flat(mask_of(done, f"{method}_inverted" if inverted else method))
    assert found.sum() == KEPT
    assert (found != expected).mean() < 5e-4


def synflow_by_hand(sign: int) -> NDArray[np.generic]:
    """LeNet's biases are 0 at initialisation: paths are products of absolute weights. 100 iterations, kept exactly."""
    size = [np.abs(np.asarray(initial()[name])) for name in LAYERS]
    alive = np.ones(sum(w.size for w in size), dtype=bool)
    for iteration in range(1, 101):
        pieces = np.split(alive, np.cumsum([w.size for w in size])[:-1])
        a, b, c = (w * kept.reshape(w.shape) for w, kept in zip(size, pieces, strict=True))
        into = [np.ones(784), a.sum(1), b @ a.sum(1)]
        out = [c.sum(0) @ b, c.sum(0), np.ones(10)]
        scores = np.concatenate([(w * i * o[:, None]).ravel() for w, i, o in zip((a, b, c), into, out, strict=True)])
        keep = round(266_200 * (KEPT / 266_200) ** (iteration / 100))
        survivors = np.flatnonzero(alive)
        order = np.argsort(sign * scores[survivors], kind="stable")
        alive[survivors[order[: survivors.size - keep]]] = False
    return alive


@pytest.mark.parametrize(("method", "sign"), [("synflow", 1), ("synflow_inverted", -1)])
def test_synflow_prunes_in_a_hundred_iterations(method: str, sign: int, done: Done):
    found = flat(mask_of(done, method))
    assert found.sum() == KEPT
    assert (found != synflow_by_hand(sign)).mean() < 5e-4


@pytest.mark.parametrize("method", SCORES)
def test_a_check_keeps_as_many_weights_in_every_layer_and_changes_what_it_says(method: str, done: Done):
    own, shuffled, reinit = (mask_of(done, f"{method}{check}") for check in ("", "_shuffled", "_reinit"))
    for name in LAYERS:
        assert own[name].sum() == shuffled[name].sum()
        assert (own[name] == reinit[name]).all()
    assert (flat(own) != flat(shuffled)).any()
    fresh = initial("reinit")
    starts = {"": initial(), "_shuffled": initial(), "_reinit": fresh, "_inverted": initial()}
    for check, weights in starts.items():
        mask = mask_of(done, f"{method}{check}")
        tickets = [t for t in done.trained if all((t.mask[name].numpy() == mask[name]).all() for name in LAYERS)]
        Mask({name: torch.from_numpy(kept) for name, kept in mask.items()}).apply_(weights)
        assert any(all(torch.equal(t.weights[name].double(), weights[name]) for name in weights) for t in tickets)
        assert {t.iteration for t in tickets} == {0}


def test_each_is_trained_and_recorded_once_with_imps_density(done: Done):
    rows = done.records[done.records["metric"] == "test_accuracy"]
    here = rows[rows["level"] == 2]
    assert sorted(here["method"]) == sorted(STUDY.extent.methods)
    assert (here["density"] == float(f"{KEPT / 266_200:.7g}")).all()
    assert not done.records["metric"][done.records["method"].str.startswith(SCORES)].str.contains("l2|angle").any()
    assert run(done.study, store=done.store, workers=1, missing="error").equals(done.records)


def test_a_replicate_gives_the_same_masks_again_and_levels_that_are_nested(
    done: Done, tmp_path: Path, embedded_mnist: Dataset
):
    """Every level sees the same examples, so a score prunes on where it stopped; another replicate sees others."""
    study = STUDY.updated(methods=("snip", "grasp"), compared_levels=(1, 2), replicates=2, barriers=False)
    again = finished(study, tmp_path, embedded_mnist)
    for method in ("snip", "grasp"):
        first, second = (flat(mask_of(again, method, level)) for level in (1, 2))
        assert (second == flat(mask_of(done, method))).all()
        assert not (second & ~first).any()
        other = load_file(again.folder / f"replicate_2/{method}/rewind_0/level_02/order_0/mask.safetensors")
        assert (flat(other) != second).any()


@pytest.mark.usefixtures("few_images")
def test_a_network_with_batch_norm_is_pruned_at_initialisation(tmp_path: Path):
    study = preset("resnet20", profile="smoke").only("stability")
    study = study.updated(rewinds=(0,), methods=("imp", *SCORES), orders=1, barriers=False, iterations=4, drops=())
    records = run(study, store=tmp_path, workers=1)
    here = records[(records["metric"] == "test_accuracy") & (records["level"] == 2)]
    assert set(here["method"]) == {"imp", *SCORES}
    assert here["density"].nunique() == 1
    place = "replicate_1/{}/rewind_0/level_02/order_0/mask.safetensors"
    assert len({(tmp_path / study.setting.name / place.format(m)).read_bytes() for m in SCORES}) == len(SCORES)


@pytest.mark.usefixtures("few_images")
def test_scores_of_a_network_with_dropout_depend_on_the_replicate_alone(tmp_path: Path):
    study = preset("squeezenet1_0", profile="smoke").only("stability")
    study = study.updated(rewinds=(0,), methods=("snip", "grasp"), orders=1, barriers=False, iterations=2)
    masks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        run(study, store=tmp_path / str(seed), workers=1)
        files = sorted((tmp_path / str(seed)).rglob("level_01/order_0/mask.safetensors"))
        masks.append([file.read_bytes() for file in files])
    assert len(masks[0]) == 3
    assert masks[0] == masks[1]


# The plan


def test_pruning_at_initialisation_is_asked_for_at_k_0_alone_in_one_data_order():
    study = SMOKE.updated(methods=("imp", "snip", "synflow_shuffled"), orders=3)
    assert [t for t in plan.trainings(study) if t.method not in ("dense", "imp")] == [
        Training(1, "snip", 0, 2, 0),
        Training(1, "synflow_shuffled", 0, 2, 0),
    ]
    assert all(c.b.method == "imp" for c in (*plan.distances(study), *plan.barriers(study)))
    assert plan.length(Training(1, "snip_reinit", 0, 2, 0), SMOKE.setting) == SMOKE.setting.iterations
    with pytest.raises(SettingError, match=r"methods: 'snip' prunes at initialisation; add 0 to rewinds=\[20\]"):
        SMOKE.updated(methods=("imp", "snip"), rewinds=(20,))


# A method of one's own


def test_the_method_in_contributing_is_short_and_runs(
    tmp_path: Path, embedded_mnist: Dataset, monkeypatch: pytest.MonkeyPatch
):
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text().partition("## A method")[2]
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    assert found[1].count("\n") < 20
    never: Callable[..., Ticket] = pytest.fail
    monkeypatch.setitem(TABLE, "magnitude_at_k", TABLE["imp"].__class__("to be replaced", never))  # and taken out again
    exec(found[1], {})
    study = SMOKE.updated(rewinds=(5,), methods=("imp", "magnitude_at_k"), orders=1, barriers=False, iterations=9)
    own = finished(study, tmp_path, embedded_mnist)
    here = own.folder / "replicate_1"
    w_k = np.abs(flat(load_file(here / "dense/iteration_5.safetensors")))
    kept = flat(load_file(here / "magnitude_at_k/rewind_5/level_02/order_0/mask.safetensors"))
    assert kept.sum() == KEPT
    assert w_k[kept].min() >= w_k[~kept].max()
    assert len(own.records.query("method == 'magnitude_at_k' and metric == 'test_accuracy'")) == 1
    assert [(term.method, term.rewind) for term in parse("magnitude_at_k@5 - imp@5")] == [
        ("magnitude_at_k", 5),
        ("imp", 5),
    ]
