import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lth_core import Mask, densities_to, magnitude, prune_global, prune_layerwise, shuffle_within_layers

Layers = list[list[tuple[float, bool]]]

SCORES = [-math.inf, -1.0, 0.0, 0.5, 3.0, math.inf]
entries = st.sampled_from([*((score, True) for score in SCORES), (-math.inf, False), (2.0, False), (math.nan, False)])
layers_of_scores_and_survivors = st.lists(st.lists(entries, max_size=15), max_size=4)
rates = st.one_of(st.floats(0, 1), st.sampled_from([0, 0.2, 0.5, 1]))


def tensors(layers: Layers) -> tuple[dict[str, torch.Tensor], Mask]:
    """Columns of scores, with a bias beside them, and a mask whose layers are not in the order of their names."""
    names = [f"layer{9 - i}" for i in range(len(layers))]
    scores = {n: torch.tensor([[s] for s, _ in layer]).view(-1, 1) for n, layer in zip(names, layers, strict=True)}
    kept = {n: torch.tensor([[k] for _, k in layer]).view(-1, 1) for n, layer in zip(names, layers, strict=True)}
    return {"bias": torch.zeros(7), **scores}, Mask(kept)


def survivors(layers: Layers, rate: float, least: Sequence[int] = (0, 0, 0, 0)) -> tuple[list[list[bool]], int]:
    """Strike out survivors by score, then layer, then position, and count those that floors hold back."""
    kept = [[alive for _, alive in layer] for layer in layers]
    remaining = round(rate * sum(map(sum, kept)))
    for _, i, j in sorted((s, i, j) for i, layer in enumerate(layers) for j, (s, alive) in enumerate(layer) if alive):
        if remaining and sum(kept[i]) > least[i]:
            kept[i][j] = False
            remaining -= 1
    return kept, remaining


def as_lists(mask: Mask) -> list[list[bool]]:
    return [mask[name].flatten().tolist() for name in mask]


@pytest.fixture
def pair() -> tuple[dict[str, torch.Tensor], Mask]:
    scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[2.0, 5.0]])}
    return scores, Mask.ones(scores)


def test_magnitude_is_the_absolute_value_and_leaves_the_weights_alone():
    weights = {"w": torch.tensor([[-2.0, 0.0], [0.5, -0.0]], requires_grad=True)}
    scores = magnitude(weights)
    assert scores["w"].tolist() == [[2.0, 0.0], [0.5, 0.0]]
    assert not scores["w"].requires_grad
    assert weights["w"].tolist() == [[-2.0, 0.0], [0.5, 0.0]]


percents_to_keep = st.just([0] * 4) | st.lists(st.integers(0, 100), min_size=4, max_size=4)


@given(layers_of_scores_and_survivors, rates, percents_to_keep, st.booleans())
@example([], 0.5, [0] * 4, False)
@example([[(1.0, True)] * 25], 0.72, [28] * 4, False)  # 0.28 * 25 is a little more than 7
def test_prune_global_takes_the_lowest_of_the_layers_that_are_above_their_floors(layers, rate, percents, by_name):
    scores, mask = tensors(layers)
    if by_name:  # the first layer has none
        percents = [0, *percents[1:]]
        floor = {name: percent / 100 for name, percent in list(zip(mask, percents, strict=False))[1:]}
    else:
        percents = percents[:1] * 4
        floor = percents[0] / 100
    least = [math.ceil(Fraction(p, 100) * len(layer)) for p, layer in zip(percents, layers, strict=False)]
    kept, held_back = survivors(layers, rate, least)
    if held_back:
        said = rf"cannot prune [\d,]+ of {mask.survivors} weights: the floors keep all but"
        with pytest.raises(ValueError, match=said):
            prune_global(scores, mask, rate, floor=floor)
    else:
        pruned = prune_global(scores, mask, rate, floor=floor)
        assert list(pruned) == list(mask)
        assert as_lists(pruned) == kept
    assert mask == tensors(layers)[1]


@pytest.mark.parametrize("floor", [-0.1, 1.1, math.nan, {"a": 2.0}, {"c": 0.5}])
def test_a_floor_outside_zero_to_one_or_without_a_layer_is_refused(floor, pair):
    with pytest.raises(ValueError, match=r"floor of '[ac]' is .*; give layers of the mask \(a, b\) the fraction"):
        prune_global(*pair, 0.5, floor=floor)


def test_densities_fall_by_the_rate_until_the_target_which_is_the_last():
    assert densities_to(0.6) == pytest.approx([0.8, 0.64, 0.6])
    assert densities_to(0.64) == [0.8, 0.64]
    assert densities_to(0.9) == [0.9]
    assert densities_to(0.1, rate=0.5) == [0.5, 0.25, 0.125, 0.1]
    for target in (0.01, 0.8**7, 0.9**30):
        *before, last = densities_to(target, rate=0.1)
        assert last == target
        assert before == pytest.approx([0.9**n for n in range(1, len(before) + 1)])
        assert before[-1] * 0.9 <= target * (1 + 1e-6) < before[-1]


@pytest.mark.parametrize(("target", "rate"), [(0, 0.2), (1, 0.2), (math.nan, 0.2), (0.5, 0), (0.5, 1), (0.5, -1)])
def test_a_target_that_no_pruning_reaches_is_refused(target, rate):
    with pytest.raises(ValueError, match=f"cannot prune to {target} at the rate {rate}; choose both"):
        densities_to(target, rate)


@given(layers_of_scores_and_survivors, st.lists(rates, min_size=4, max_size=4))
def test_prune_layerwise_agrees_with_sorting_each_layer_and_leaves_the_mask_alone(layers, chosen):
    scores, mask = tensors(layers)
    by_name = dict(sorted(zip(mask, chosen, strict=False)))
    for rate, each in ((by_name, chosen), (chosen[0], [chosen[0]] * 4)):
        pruned = prune_layerwise(scores, mask, rate)
        assert list(pruned) == list(mask)
        assert as_lists(pruned) == [survivors([layer], r)[0][0] for layer, r in zip(layers, each, strict=False)]
    assert mask == tensors(layers)[1]


@pytest.mark.parametrize("rate", [0.2, 5e-6])
def test_ties_in_layers_too_large_for_an_unstable_sort_fall_to_the_lower_index(rate):
    chance = np.random.default_rng(0)
    scores, alive = chance.integers(0, 9, 266_200).astype(np.float32), chance.random(266_200) < 0.8
    expected = alive.copy()
    ranked = np.flatnonzero(alive)[np.argsort(scores[alive], kind="stable")]
    expected[ranked[: round(rate * len(ranked))]] = False
    parts = {"first": slice(0, 235_200), "second": slice(235_200, None)}
    pruned = prune_global(
        {name: torch.from_numpy(scores[part]) for name, part in parts.items()},
        Mask({name: torch.from_numpy(alive[part]) for name, part in parts.items()}),
        rate,
    )
    assert all(np.array_equal(pruned[name].numpy(), expected[part]) for name, part in parts.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_scores_of_any_kind_of_number_are_compared_exactly(dtype: torch.dtype):
    values = torch.tensor([3, 1, 2, 1, 5, 1]).to(dtype)
    if dtype == torch.float64:
        values[1] += 1e-12  # no longer a tie
    pruned = prune_global({"w": values}, Mask({"w": torch.ones(6, dtype=torch.bool)}), 1 / 3)
    expected = (
        [True, True, True, False, True, False] if dtype == torch.float64 else [True, False, True, False, True, True]
    )
    assert pruned["w"].tolist() == expected


NOT_NUMBERS = {"a": torch.zeros(2, dtype=torch.complex64), "b": torch.zeros(1, 2)}


@pytest.mark.parametrize("prune", [prune_global, prune_layerwise])
@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        ({}, -0.01, r"pruning rate -0.01 is outside \[0, 1\]"),
        ({}, 1.01, r"pruning rate 1.01 is outside \[0, 1\]"),
        ({}, math.nan, r"pruning rate nan is outside \[0, 1\]"),
        ({}, "0.5", r"pruning rate '0\.5' is outside \[0, 1\]"),
        ({"a": torch.tensor([1.0, math.nan])}, 0.5, "'a': scores of survivors hold NaN"),
        (NOT_NUMBERS, 0.5, "'a': scores are complex numbers"),
        ({"b": torch.zeros(2, 1)}, 0.5, r"'b': mask has shape \(1, 2\), not \(2, 1\)"),
    ],
)
def test_rates_and_scores_that_order_nothing_are_refused(prune, scores, rate, message, pair):
    with pytest.raises(ValueError, match=message):
        prune({**pair[0], **scores}, pair[1], rate)


def test_a_layer_has_one_rate(pair):
    for chosen in ({"a": 0.5}, {"a": 0.5, "b": 0.5, "c": 0.5}):
        with pytest.raises(ValueError, match="rates are given for"):
            prune_layerwise(*pair, chosen)
    with pytest.raises(ValueError, match=r"pruning rate 1.5 is outside \[0, 1\]"):
        prune_layerwise(*pair, {"a": 0.2, "b": 1.5})


def test_scores_may_be_arrays():
    scores = {"a": np.array([3.0, 1.0, 2.0, 4.0])}
    assert as_lists(prune_global(scores, Mask({"a": np.ones(4)}), 0.5)) == [[True, False, False, True]]


SPARSE = Mask({"a": torch.arange(600).view(20, 30) % 5 == 0, "b": torch.arange(90) < 30})


@given(st.integers(-(2**63), 2**63 - 1))
def test_shuffling_moves_the_survivors_of_every_layer_and_repeats_with_its_seed(seed):
    shuffled = shuffle_within_layers(SPARSE, seed)
    assert {name: (tuple(shuffled[name].shape), int(shuffled[name].sum())) for name in shuffled} == {
        "a": ((20, 30), 120),
        "b": ((90,), 30),
    }
    assert not any(torch.equal(shuffled[name], SPARSE[name]) for name in SPARSE)
    generator = torch.Generator().manual_seed(seed)
    assert shuffle_within_layers(SPARSE, seed) == shuffle_within_layers(SPARSE, generator) == shuffled
    assert shuffle_within_layers(SPARSE, generator) != shuffled  # it draws on


def test_shuffling_spreads_the_survivors_evenly_over_seeds():
    mask = Mask({"w": torch.arange(40) < 10})
    hits = sum(shuffle_within_layers(mask, seed)["w"].to(torch.int64) for seed in range(800)).tolist()
    assert all(abs(hit - 200) < 5 * math.sqrt(800 * 0.25 * 0.75) for hit in hits)
