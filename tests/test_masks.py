import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lth_core import Mask, magnitude, prunable, prune_global


@pytest.fixture
def mask() -> Mask:
    return Mask({"a": torch.tensor([[True, False], [True, True]]), "b": torch.tensor([False, True, False])})


def as_lists(mask: Mask) -> dict[str, list]:
    return {name: mask[name].tolist() for name in mask}


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 5),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.LayerNorm(6),
        nn.Linear(6, 2),
    )


def test_changing_what_was_passed_in_leaves_the_mask_as_it_was():
    given_in = torch.tensor([True, False])
    mapping = {"a": given_in}
    mask = Mask(mapping)
    given_in.fill_(False)
    mapping["b"] = given_in
    assert as_lists(mask) == {"a": [True, False]}


def test_changing_what_a_mask_hands_out_leaves_the_mask_as_it_was(mask):
    before = as_lists(mask)
    mask["a"].fill_(False)
    for tensor in mask.values():
        tensor.logical_not_()
    mask.density_by_layer().clear()
    assert as_lists(mask) == before


def test_a_mask_has_no_item_assignment(mask):
    with pytest.raises(TypeError):
        mask["a"] = torch.ones(2, 2, dtype=torch.bool)


def test_ones_of_a_users_network_leaves_biases_and_normalisation_out():
    mask = Mask.ones(convolutional())
    assert {name: tuple(mask[name].shape) for name in mask} == {
        "0.weight": (4, 3, 5, 5),
        "4.weight": (6, 16),
        "6.weight": (2, 6),
    }
    assert mask.size == 300 + 96 + 12


def test_ones_of_a_single_layer_and_of_a_mapping():
    assert as_lists(Mask.ones(nn.Linear(2, 1))) == {"weight": [[True, True]]}
    assert as_lists(Mask.ones({"w": torch.zeros(3)})) == {"w": [True, True, True]}


def test_a_model_can_name_its_prunable_weights_itself():
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def prunable(self) -> list[str]:
            return ["second.weight"]

    assert list(Mask.ones(Chosen())) == ["second.weight"]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=4))
def test_sizes_and_densities_agree_with_counting(layers):
    mask = Mask({str(i): torch.tensor(layer) for i, layer in enumerate(layers)})
    everything = [kept for layer in layers for kept in layer]
    assert (mask.size, mask.survivors) == (len(everything), everything.count(True))
    assert mask.density == everything.count(True) / len(everything)
    assert mask.density_by_layer() == {str(i): layer.count(True) / len(layer) for i, layer in enumerate(layers)}


def test_a_mask_over_no_weights_keeps_them_all():
    assert Mask({}).density == 1.0
    assert Mask({}).density_by_layer() == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -0.0, -3.5])
def test_apply_sets_pruned_weights_to_positive_zero_whatever_they_were(mask, value):
    weights = {"a": torch.full((2, 2), value), "b": torch.full((3,), value)}
    mask.apply_(weights)
    pruned = torch.cat([weights["a"][0, 1:], weights["b"][0::2]])
    assert pruned.tolist() == [0.0, 0.0, 0.0]
    assert not pruned.signbit().any()
    kept = torch.cat([weights["a"].flatten()[[0, 2, 3]], weights["b"][1:2]])
    torch.testing.assert_close(kept, torch.full((4,), value), rtol=0, atol=0, equal_nan=True)


def test_apply_changes_a_model_in_place_and_only_where_pruned():
    model = convolutional()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    keep = torch.arange(96).view(6, 16) % 3 == 0
    Mask({"4.weight": keep}).apply_(model)
    after = model.state_dict()
    assert after["4.weight"].tolist() == [
        [float(w) if k else 0.0 for w, k in zip(*rows, strict=True)]
        for rows in zip(before["4.weight"].tolist(), keep.tolist(), strict=True)
    ]
    assert all(torch.equal(after[name], before[name]) for name in before if name != "4.weight")


def test_apply_refuses_a_weight_of_another_shape(mask):
    with pytest.raises(ValueError, match=r"'a'.*\(2, 2\).*\(2, 3\)"):
        mask.apply_({"a": torch.ones(2, 3), "b": torch.ones(3)})


def test_equality_is_of_names_shapes_and_values(mask):
    def other(**changes: Tensor) -> Mask:
        return Mask({**mask, **changes})

    assert mask == other()
    assert mask != other(b=torch.tensor([False, True, True]))
    assert mask != other(b=torch.tensor([[False, True, False]]))
    assert mask != other(c=torch.tensor([True]))
    assert mask != Mask({"a": mask["a"]})
    assert mask != "a mask"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_zeros_and_ones_of_any_type_make_a_mask(dtype):
    mask = Mask({"w": torch.tensor([1, 0, 1], dtype=dtype)})
    assert mask["w"].dtype == torch.bool
    assert mask["w"].tolist() == [True, False, True]


@pytest.mark.parametrize("value", [0.5, 2, -1, float("nan")])
def test_other_values_than_zero_and_one_are_refused(value):
    with pytest.raises(ValueError, match=r"'w'.*zeros and ones"):
        Mask({"w": torch.tensor([0, 1, value])})


def test_a_saved_mask_loads_with_its_values_and_its_layers_in_their_order(tmp_path):
    layers = {"stem": [[True, True, False], [False, True, False]], "block 10": [False], "block2": [True], "head": []}
    tensors = {name: torch.tensor(values, dtype=torch.bool) for name, values in layers.items()}
    tensors["stem"] = tensors["stem"].t().contiguous().t()  # transposed: not in the order of its memory
    Mask(tensors).save(tmp_path / "mask.safetensors")
    loaded = Mask.load(tmp_path / "mask.safetensors")
    assert list(as_lists(loaded).items()) == list(layers.items())
    assert {tensor.dtype for tensor in loaded.values()} == {torch.bool}


@pytest.mark.parametrize("length", [0, 4, 20, -1])
def test_a_truncated_file_is_refused_by_name(mask, tmp_path, length):
    file = tmp_path / "level_03.safetensors"
    mask.save(file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"level_03\.safetensors"):
        Mask.load(file)


def test_weights_that_two_layers_share_are_pruned_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    mask = Mask.ones(model)
    assert list(mask) == ["0.weight"]
    pruned = prune_global(magnitude(prunable(model)), mask, 0.5)
    pruned.apply_(model)
    assert int((model[2].weight == 0).sum()) == 8


def test_a_model_with_nothing_to_prune_is_refused():
    with pytest.raises(ValueError, match="LayerNorm has no weights to prune"):
        Mask.ones(nn.LayerNorm(4))
    with pytest.raises(ValueError, match="no weights to prune"):
        Mask.ones({})


def test_a_mask_that_does_not_fit_changes_nothing():
    weights = {"a": torch.ones(2), "b": torch.ones(3)}
    for mask, said in (
        (Mask({"a": torch.zeros(2, dtype=torch.bool), "b": torch.zeros(2, dtype=torch.bool)}), "'b': mask has shape"),
        (Mask({"a": torch.zeros(2, dtype=torch.bool), "c": torch.zeros(2, dtype=torch.bool)}), "'c' is in the mask"),
    ):
        with pytest.raises(ValueError, match=said):
            mask.apply_(weights)
        assert weights["a"].sum() == 2
