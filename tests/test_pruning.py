import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lth_core import Mask, magnitude, prune_global, prune_layerwise, shuffle_within_layers

Layers = list[list[tuple[int, bool]]]

layers_of_scores_and_survivors = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=15), min_size=1, max_size=4
)
rates = st.one_of(st.floats(0, 1), st.sampled_from([0, 0.2, 0.5, 1]))


def tensors(layers: Layers) -> tuple[dict[str, torch.Tensor], Mask]:
    """Layers named so that their alphabetical order is not their own."""
    names = [f"layer{9 - i}" for i in range(len(layers))]
    scores = {n: torch.tensor([float(s) for s, _ in layer]) for n, layer in zip(names, layers, strict=True)}
    return scores, Mask({n: torch.tensor([kept for _, kept in layer]) for n, layer in zip(names, layers, strict=True)})


def expected_survivors(layers: Layers, rate: float) -> list[list[bool]]:
    """Sort the survivors by score, then layer, then position, and strike out the first of them."""
    kept = [[alive for _, alive in layer] for layer in layers]
    ranked = sorted((score, i, j) for i, layer in enumerate(layers) for j, (score, alive) in enumerate(layer) if alive)
    for _, i, j in ranked[: round(rate * len(ranked))]:
        kept[i][j] = False
    return kept


def as_lists(mask: Mask) -> list[list[bool]]:
    return [mask[name].tolist() for name in mask]


def count(mask: Mask) -> int:
    return sum(row.count(True) for row in as_lists(mask))


@pytest.fixture
def pair() -> tuple[dict[str, torch.Tensor], Mask]:
    return {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[2.0, 5.0]])}, Mask.ones(
        {"a": torch.zeros(2), "b": torch.zeros(1, 2)}
    )


def test_magnitude_is_the_absolute_value_and_leaves_the_weights_alone():
    weights = {"w": torch.tensor([[-2.0, 0.0], [0.5, -0.0]], requires_grad=True)}
    scores = magnitude(weights)
    assert scores["w"].tolist() == [[2.0, 0.0], [0.5, 0.0]]
    assert not scores["w"].requires_grad
    assert weights["w"].tolist() == [[-2.0, 0.0], [0.5, 0.0]]


@given(layers_of_scores_and_survivors, rates)
def test_prune_global_agrees_with_sorting(layers, rate):
    scores, mask = tensors(layers)
    assert as_lists(prune_global(scores, mask, rate)) == expected_survivors(layers, rate)


@given(layers_of_scores_and_survivors, rates)
def test_prune_layerwise_agrees_with_sorting_each_layer(layers, rate):
    scores, mask = tensors(layers)
    expected = [expected_survivors([layer], rate)[0] for layer in layers]
    assert as_lists(prune_layerwise(scores, mask, rate)) == expected


@given(layers_of_scores_and_survivors, st.lists(rates, min_size=4, max_size=4))
def test_prune_layerwise_takes_a_rate_for_every_layer(layers, chosen):
    scores, mask = tensors(layers)
    expected = [expected_survivors([layer], rate)[0] for layer, rate in zip(layers, chosen, strict=False)]
    by_name = dict(zip(mask, chosen, strict=False))
    assert as_lists(prune_layerwise(scores, mask, dict(sorted(by_name.items())))) == expected


@pytest.mark.parametrize("prune", [prune_global, prune_layerwise])
@given(layers=layers_of_scores_and_survivors, rate=rates)
def test_pruned_masks_are_nested_and_the_one_handed_in_is_untouched(prune, layers, rate):
    scores, mask = tensors(layers)
    before = as_lists(mask)
    pruned = prune(scores, mask, rate)
    assert as_lists(mask) == before
    assert list(pruned) == list(mask)
    assert not any(bool((pruned[name] & ~mask[name]).any()) for name in mask)


def test_five_prunings_of_lenets_shapes_have_exact_counts():
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "output.weight": (10, 100)}
    scores = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    mask, survivors = Mask.ones(scores), 266_200
    for _ in range(5):
        mask = prune_global(scores, mask, 0.2)
        survivors -= round(0.2 * survivors)
        assert count(Mask({n: mask[n].flatten() for n in mask})) == survivors
    assert survivors == 87_228


def test_ties_fall_to_the_earlier_layer_then_the_lower_index():
    scores = {"z": torch.ones(2, 2), "a": torch.ones(3)}
    pruned = prune_global(scores, Mask.ones(scores), 5 / 7)
    assert pruned["z"].tolist() == [[False, False], [False, False]]
    assert pruned["a"].tolist() == [False, True, True]


def test_ties_fall_to_the_lower_index_in_a_layer_too_large_for_an_unstable_sort():
    scores = {"w": torch.zeros(50_000)}
    kept = prune_global(scores, Mask.ones(scores), 0.3)["w"]
    assert not kept[:15_000].any()
    assert kept[15_000:].all()


@pytest.mark.parametrize("prune", [prune_global, prune_layerwise])
def test_rate_zero_keeps_and_rate_one_removes_everything(prune, pair):
    scores, mask = pair
    assert prune(scores, mask, 0) == mask
    assert count(Mask({n: prune(scores, mask, 1)[n].flatten() for n in mask})) == 0


@pytest.mark.parametrize("prune", [prune_global, prune_layerwise])
def test_a_mask_without_survivors_or_without_layers_can_be_pruned(prune, pair):
    scores, mask = pair
    empty = prune(scores, mask, 1.0)
    assert prune(scores, empty, 0.2) == empty
    assert prune({}, Mask({}), 0.2) == Mask({})


def test_infinite_scores_are_ordered():
    scores = {"w": torch.tensor([math.inf, 1.0, -math.inf, 0.0])}
    assert prune_global(scores, Mask.ones(scores), 0.75)["w"].tolist() == [True, False, False, False]


def test_scores_of_further_layers_are_left_aside(pair):
    scores, mask = pair
    assert prune_global({**scores, "bias": torch.zeros(7)}, mask, 0.5) == prune_global(scores, mask, 0.5)


@pytest.mark.parametrize("prune", [prune_global, prune_layerwise])
@pytest.mark.parametrize("rate", [-0.01, 1.01, -math.inf, math.inf, math.nan])
def test_a_rate_outside_zero_to_one_is_refused(prune, rate, pair):
    with pytest.raises(ValueError, match=rf"{rate}.*\[0, 1\]"):
        prune(*pair, rate)


def test_one_bad_rate_among_those_of_the_layers_is_refused(pair):
    with pytest.raises(ValueError, match=r"1\.5.*\[0, 1\]"):
        prune_layerwise(*pair, {"a": 0.2, "b": 1.5})


@pytest.mark.parametrize("prune", [prune_global, prune_layerwise])
def test_a_layer_without_scores_is_refused_by_name(prune, pair):
    scores, mask = pair
    with pytest.raises(ValueError, match="'b'"):
        prune({"a": scores["a"]}, mask, 0.5)


@pytest.mark.parametrize("prune", [prune_global, prune_layerwise])
def test_scores_of_another_shape_are_refused_by_name(prune, pair):
    scores, mask = pair
    with pytest.raises(ValueError, match=r"'b'.*\(1, 2\).*\(2, 1\)"):
        prune({**scores, "b": scores["b"].t()}, mask, 0.5)


@pytest.mark.parametrize("prune", [prune_global, prune_layerwise])
def test_scores_that_are_not_numbers_are_refused_by_name(prune, pair):
    scores, mask = pair
    with pytest.raises(ValueError, match=r"'a'.*NaN"):
        prune({**scores, "a": torch.tensor([1.0, math.nan])}, mask, 0.5)


@pytest.mark.parametrize("chosen", [{"a": 0.5}, {"a": 0.5, "b": 0.5, "c": 0.5}, {}])
def test_rates_for_other_layers_than_the_masks_are_refused(chosen, pair):
    with pytest.raises(ValueError, match="rates are given for"):
        prune_layerwise(*pair, chosen)


@pytest.fixture
def sparse() -> Mask:
    return Mask({"a": torch.arange(600).view(20, 30) % 5 == 0, "b": torch.arange(90) < 30})


def test_shuffling_keeps_the_count_and_shape_of_every_layer(sparse):
    shuffled = shuffle_within_layers(sparse, 1)
    assert {name: (tuple(shuffled[name].shape), int(shuffled[name].sum())) for name in shuffled} == {
        "a": ((20, 30), 120),
        "b": ((90,), 30),
    }


@given(st.integers(-(2**63), 2**63 - 1))
def test_shuffling_changes_every_layer_and_repeats_with_its_seed(seed):
    mask = Mask({"a": torch.arange(600).view(20, 30) % 5 == 0, "b": torch.arange(90) < 30})
    shuffled = shuffle_within_layers(mask, seed)
    assert not any(torch.equal(shuffled[name], mask[name]) for name in mask)
    assert shuffle_within_layers(mask, seed) == shuffled


def test_shuffles_of_different_seeds_differ(sparse):
    drawn = [str(as_lists(shuffle_within_layers(sparse, seed))) for seed in range(20)]
    assert len(set(drawn)) == 20


def test_shuffling_takes_a_generator_and_draws_on_from_it(sparse):
    generator = torch.Generator().manual_seed(7)
    first, second = shuffle_within_layers(sparse, generator), shuffle_within_layers(sparse, generator)
    assert first == shuffle_within_layers(sparse, 7)
    assert first != second


def test_shuffling_spreads_the_survivors_evenly():
    mask = Mask({"w": torch.arange(40) < 10})
    hits = sum(shuffle_within_layers(mask, seed)["w"].to(torch.int64) for seed in range(800)).tolist()
    assert all(abs(hit - 200) < 5 * math.sqrt(800 * 0.25 * 0.75) for hit in hits)


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
