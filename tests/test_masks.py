import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lth_core import Level, Mask, subnetwork


@pytest.fixture
def mask() -> Mask:
    return Mask({"a": torch.tensor([[True, False], [True, True]]), "b": torch.tensor([False, True, False])})


def as_lists(mask: Mask) -> dict[str, list]:
    return {name: mask[name].tolist() for name in mask}


def test_a_mask_does_not_change_with_what_was_passed_in_or_handed_out():
    given_in = torch.tensor([True, False])
    mapping = {"a": given_in}
    mask = Mask(mapping)
    given_in.fill_(False)
    mapping["b"] = given_in
    mask["a"].fill_(False)
    for tensor in mask.values():
        tensor.logical_not_()
    mask.density_by_layer().clear()
    with pytest.raises(TypeError):
        mask["a"] = torch.ones(2, dtype=torch.bool)
    assert as_lists(mask) == {"a": [True, False]}


@pytest.mark.parametrize("nothing", [nn.LayerNorm(4), {}], ids=["LayerNorm", "dict"])
def test_a_model_with_nothing_to_prune_is_refused(nothing, request):
    with pytest.raises(ValueError, match=f"{request.node.callspec.id} has no weights to prune"):
        Mask.ones(nothing)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=12), max_size=4))
def test_sizes_and_densities_agree_with_counting(layers):
    mask = Mask({str(i): torch.tensor(layer) for i, layer in enumerate(layers)})
    everything = [kept for layer in layers for kept in layer]
    assert (mask.size, mask.survivors) == (len(everything), everything.count(True))
    assert mask.density == (everything.count(True) / len(everything) if everything else 1.0)
    assert mask.density_by_layer() == {str(i): layer.count(True) / len(layer) for i, layer in enumerate(layers)}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -0.0, -3.5])
def test_apply_sets_pruned_weights_to_positive_zero_whatever_they_were_and_no_others(mask, value):
    weights = {"a": torch.full((2, 2), value), "b": torch.full((3,), value), "bias": torch.full((2,), value)}
    mask.apply_(weights)
    for name, weight in weights.items():
        kept = mask[name] if name in mask else torch.ones(2, dtype=torch.bool)
        expected = torch.where(kept, torch.full(weight.shape, value), torch.zeros(weight.shape))
        assert weight.view(torch.int32).tolist() == expected.view(torch.int32).tolist()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"b": torch.zeros(2)}, r"^'b': mask has shape \(2,\), not \(3,\)$"),
        ({"c": torch.zeros(2)}, "^'c' is in the mask, but not in what is given: a, b$"),
    ],
)
def test_a_mask_that_does_not_fit_changes_nothing(other, said):
    weights = {"a": torch.ones(2), "b": torch.ones(3)}
    with pytest.raises(ValueError, match=said):
        Mask({"a": torch.zeros(2), **other}).apply_(weights)
    assert weights["a"].sum() == 2


def test_equality_is_of_names_shapes_and_values(mask):
    def other(**changes: Tensor) -> Mask:
        return Mask({**mask, **changes})

    assert mask == other()
    assert mask != other(b=torch.tensor([False, True, True]))
    assert mask != other(b=torch.tensor([[False, True, False]]))
    assert mask != other(c=torch.tensor([True]))
    assert mask != Mask({"a": mask["a"]})
    assert mask != "a mask"


def test_zeros_and_ones_of_any_type_and_layout_make_a_mask():
    plain = np.array([[1, 0, 1], [0, 0, 1]])
    makers: list[Callable[[str], object]] = [plain.astype, lambda dtype: torch.from_numpy(plain.astype(dtype))]
    for make in makers:
        for dtype in ("bool", "uint8", "int64", "float32", "float64"):
            assert Mask({"w": make(dtype)})["w"].tolist() == [[True, False, True], [False, False, True]]
    views = Mask({"reversed": plain[::-1, ::-2], "fortran": np.asfortranarray(plain), "transposed": plain.T})
    assert as_lists(views) == {
        "reversed": [[True, False], [True, True]],
        "fortran": [[True, False, True], [False, False, True]],
        "transposed": [[True, False], [False, False], [True, True]],
    }
    kept = Mask({"w": plain})
    plain[:] = 1
    plain.flags.writeable = False
    assert (kept.survivors, Mask({"w": plain}).survivors) == (3, 6)


@pytest.mark.parametrize("value", [0.5, 2, -1, float("nan"), "kept"])
def test_other_values_than_zero_and_one_are_refused(value):
    said = "a tensor or an array of numbers" if value == "kept" else "bool, or only zeros and ones"
    with pytest.raises(ValueError, match=f"^mask of 'w': expected {said}, got "):
        Mask({"w": np.array([0, 1, value]) if value == "kept" else torch.tensor([0, 1, value])})


def test_masks_levels_and_tickets_print_as_a_line() -> None:
    weights = {"w": torch.randn(300, 300)}
    mask = Mask.ones(weights)
    level = Level(mask, weights, weights, {"history": torch.randn(1000), "text": "a\nb" * 100})
    for printed in map(repr, (mask, level, subnetwork(weights, mask, 20, 3))):
        assert len(printed) < 300
        assert "\n" not in printed
        assert re.search(r"90,000 of 90,000 weights", printed)
