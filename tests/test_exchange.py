"""Masks there and back: torch's pruning, open_lth's files, numpy; and files of others, that may be hostile."""

from __future__ import annotations

import copy
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from lth_core import (
    Level,
    Mask,
    Ticket,
    load_mask,
    load_state,
    mask_from_torch_prune,
    save_open_lth,
    to_numpy,
    to_torch_prune,
)
from lth_core.states import write_state


def network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 2, bias=False))
    )


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    names = draw(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=3, unique=True))
    drawn = {}
    for name in names:
        shape = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
        kept = draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        drawn[name] = torch.tensor(kept, dtype=torch.bool).view(shape).permute(*reversed(range(len(shape))))
    return Mask(drawn)


@pytest.fixture
def mask() -> Mask:
    shapes = {"3.1.weight": (2, 6), "0.weight": (3, 1, 3, 3), "2.weight": (6, 12)}
    return Mask({name: torch.arange(int(np.prod(shape))).view(shape) % 3 != 1 for name, shape in shapes.items()})


def test_torchs_pruning_computes_what_the_mask_does_and_gives_it_back(mask: Mask) -> None:
    model, masked, images = network(), network(), torch.randn(5, 1, 4, 4)
    for name, kept in mask.items():
        masked.get_parameter(name).data *= kept
    to_torch_prune(mask, model)
    assert torch.equal(model(images), masked(images))
    assert prune.is_pruned(model)
    names = {name for name, _ in model.named_parameters()}
    assert names == {"0.weight_orig", "0.bias", "2.weight_orig", "2.bias", "3.1.weight_orig"}
    assert mask_from_torch_prune(model) == mask
    model(images).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model(images)
    assert (model[2].weight[~mask["2.weight"]] == 0).all()
    for layer in (model[0], model[2], model[3][1]):
        prune.remove(layer, "weight")
    assert sorted(model.state_dict()) == sorted(network().state_dict())


def test_a_model_that_torch_pruned_gives_its_mask() -> None:
    model = network()
    prune.l1_unstructured(model[2], "weight", amount=30)
    prune.random_unstructured(model[3][1], "weight", amount=0.5)
    prune.l1_unstructured(model[3][1], "weight", amount=2)  # a second pruning of the same weight
    prune.l1_unstructured(model[0], "bias", amount=1)
    found = mask_from_torch_prune(model)
    assert {name: int(kept.sum()) for name, kept in found.items()} == {"0.bias": 2, "2.weight": 42, "3.1.weight": 4}
    smallest = model[2].weight_orig.detach().abs().flatten().argsort()[:30]
    assert not found["2.weight"].flatten()[smallest].any()


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda model: nn.DataParallel(torch.compile(model))])
def test_a_wrapped_model_is_pruned_inside_its_wrappers(wrap: Callable[[nn.Module], nn.Module], mask: Mask) -> None:
    model = network()
    to_torch_prune(mask, wrap(model))
    assert all((model.get_parameter(f"{name}_orig").shape == kept.shape) for name, kept in mask.items())
    assert all(torch.equal(model.get_buffer(f"{name}_mask").bool(), kept) for name, kept in mask.items())
    assert mask_from_torch_prune(wrap(model)) == mask_from_torch_prune(model) == mask


def test_a_weight_of_two_layers_is_pruned_in_both() -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6))
    model[1].weight = model[0].weight
    mask = Mask({"0.weight": torch.arange(24).view(6, 4) % 2 == 0})
    to_torch_prune(mask, model)
    assert torch.equal(model[0].weight, model[1].weight)
    assert (model[1].weight[~mask["0.weight"]] == 0).all()
    assert model[0].weight_orig is model[1].weight_orig
    found = mask_from_torch_prune(model)
    assert found == mask
    assert found.shared == {"1.weight": "0.weight"}


def test_a_mask_that_does_not_fit_prunes_nothing(mask: Mask) -> None:
    for other in ({"9.weight": torch.ones(2)}, {"2.weight": torch.ones(12, 6)}):
        model = network()
        with pytest.raises(ValueError, match=r"the model has no such parameter of this shape; it has 0\.weight, "):
            to_torch_prune(Mask({**mask, **other}), model)
        assert not prune.is_pruned(model)
    with pytest.raises(ValueError, match=r"^Sequential has no weights that torch"):
        mask_from_torch_prune(network())


@given(masks())
def test_masks_go_there_and_back(tmp_path_factory: pytest.TempPathFactory, mask: Mask) -> None:
    folder = tmp_path_factory.mktemp("masks")
    save_open_lth(mask, folder / "mask.pth")
    np.savez(folder / "mask.npz", **{f"m{i}": kept for i, kept in enumerate(to_numpy(mask).values())})
    mask.save(folder / "mask.safetensors")
    assert Mask(to_numpy(mask)) == mask
    for found in (
        *map(load_mask, (folder / "mask.pth", folder / "mask.safetensors")),
        Mask.load(folder / "mask.safetensors"),
    ):
        assert (found, list(found)) == (mask, list(mask))
    written = torch.load(folder / "mask.pth", weights_only=True)
    assert {(kept.dtype, kept.shape) for kept in written.values()} == {(torch.int32, k.shape) for k in mask.values()}
    assert list(map(np.ndarray.tolist, to_numpy(load_mask(folder / "mask.npz")).values())) == [
        kept.tolist() for kept in mask.values()
    ]


def test_the_state_dict_of_a_model_that_torch_pruned_holds_its_mask(mask: Mask, tmp_path: Path) -> None:
    model = network()
    to_torch_prune(mask, model)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    torch.save({"epoch": 3, "state_dict": model.state_dict(), "optimizer": {"lr": 0.1}}, tmp_path / "b.tar")
    save_file(copy.deepcopy(dict(model.state_dict())), tmp_path / "c.safetensors")
    for file in tmp_path.glob("?.*"):
        assert load_mask(file) == mask
        assert load_state(file).keys() == model.state_dict().keys()


def test_a_state_dict_of_others_is_read_and_its_zeros_make_a_mask(mask: Mask, tmp_path: Path) -> None:
    model = network()
    mask.apply_(model)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(
        ValueError, match=r"weights\.pt holds no mask \(mask of '0\.weight': .* Mask\(\{name: weight != 0"
    ):
        load_mask(tmp_path / "weights.pt")
    state = load_state(tmp_path / "weights.pt")
    assert Mask({name: weight != 0 for name, weight in state.items() if name in Mask.ones(model)}) == mask


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("name", ["mask.pth", "mask.pt", "mask.npz", "mask.safetensors", "mask"])
def test_no_code_of_a_file_is_run(name: str, tmp_path: Path) -> None:
    escaped, file = tmp_path / "escaped", tmp_path / name
    torch.save({"w": Hostile(escaped)}, tmp_path / "saved")
    np.savez(tmp_path / "objects.npz", w=np.array([Hostile(escaped)], dtype=object))
    contents = [(tmp_path / "saved").read_bytes(), (tmp_path / "objects.npz").read_bytes()]
    said = []
    for content in (*contents, pickle.dumps({"w": Hostile(escaped)}, protocol=2)):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"{re.escape(name)} cannot be read safely \(.*\); expected safetensors"
        ) as e:
            load_mask(file)
        assert "\n" not in str(e.value)
        assert "weights_only" not in str(e.value)
        said.append(str(e.value))
    if file.suffix == ".npz":
        assert "(Object arrays cannot be loaded when allow_pickle=False)" in said[1]
    elif file.suffix != ".safetensors":
        assert "(it may hold objects that are not tensors)" in said[0]
    assert not escaped.exists()


def test_a_file_without_names_or_that_is_missing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    with pytest.raises(ValueError, match=r"x\.pt is missing, or no file"):
        load_mask(file)
    for content in ({}, [torch.ones(2)], torch.ones(2), {"epoch": 3}, {1: torch.ones(2)}):
        torch.save(content, file)
        with pytest.raises(ValueError, match=r"x\.pt holds no tensors by name; expected a state dict"):
            load_mask(file)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_the_state_of_a_checkpoint_is_found(key: str, tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    torch.save({"epoch": 3, key: model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x.pt")
    found, expected = load_state(tmp_path / "x.pt"), model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_checkpoint_of_several_states_is_refused_unless_one_is_its_state_dict(tmp_path: Path) -> None:
    state, average = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    for others, named in (({"ema": average}, "model, ema"), ({"best": torch.tensor(0.9)}, "its top, model")):
        torch.save({"model": state, **others}, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=rf"x\.pt holds several states \({named}\); expected a state dict, or a"):
            load_state(tmp_path / "x.pt")
        torch.save({"state_dict": state, **others}, tmp_path / "x.pt")
        assert load_state(tmp_path / "x.pt")["w"].tolist() == [1, 1]


def test_mask_load_says_whose_file_it_is_not(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "zip.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "x.npz", w=np.ones(2))
    np.save(tmp_path / "x.npy", np.ones(2))
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    save_file({"w": torch.ones(2)}, tmp_path / "y.safetensors", {"format": "pt"})
    files = list(tmp_path.glob("*.*"))
    assert len(files) == 6
    for file in files:
        with pytest.raises(ValueError, match=rf"{file.name} is not a file of lth_core .*; load_mask or load_state may"):
            Mask.load(file)
    for size in range(0x300, 0x380):  # a header whose length begins as a pickle does
        save_file({"w": torch.ones(2)}, tmp_path / "long", {"tree": " " * size, "sha256": ""})
        if (tmp_path / "long").read_bytes()[:1] == b"\x80":
            break
    with pytest.raises(ValueError, match=r"long is damaged, or not a file of lth_core .*; delete it, and make"):
        Mask.load(tmp_path / "long")
    write_state(tmp_path / "state", {"w": torch.full((2,), 0.5)})
    with pytest.raises(ValueError, match=r"state holds no mask \(mask of 'w': expected bool"):
        Mask.load(tmp_path / "state")
    (tmp_path / "text").write_text("none of these")
    with pytest.raises(ValueError, match=r"text is damaged, or not a file of lth_core .*; delete it, and make"):
        Mask.load(tmp_path / "text")


def test_torch_saves_masks_levels_and_tickets_and_loads_them_safely(mask: Mask, tmp_path: Path) -> None:
    weights = {name: torch.randn(kept.shape) for name, kept in mask.items()}
    mask = Mask(mask, shared={"tied": "2.weight"})
    level = Level(mask, weights, {**weights, "epoch": 3}, {"accuracy": 0.5})
    torch.save([mask, level, Ticket(mask, weights, 5, 2)], tmp_path / "x.pt")
    found, loaded, ticket = torch.load(tmp_path / "x.pt", weights_only=True)
    assert [type(found), type(loaded), type(ticket)] == [Mask, Level, Ticket]
    assert found == loaded.mask == ticket.mask == mask
    assert found.shared == {"tied": "2.weight"}
    assert (loaded.trained["epoch"], loaded.result, ticket.iteration, ticket.level) == (3, {"accuracy": 0.5}, 5, 2)
    assert all(torch.equal(loaded.rewound[name], weight) for name, weight in weights.items())
