"""A folder of levels: killed anywhere, a search goes on with the same bits; another search's folder is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from project import ROOT
from safetensors.torch import save
from torch import nn

from lth_core import Level, Mask, Ticket, iterative_magnitude_pruning, one_shot_pruning, prune_layerwise, prune_lowest
from lth_core.levels import Retrain
from lth_core.states import copied, read_state, write_state

LEVELS = 3


def test_a_search_that_is_killed_at_any_moment_gives_the_same_bits_and_trains_no_level_twice(tmp_path: Path) -> None:
    command = [sys.executable, "tests/killed_search.py", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


class Trainer:
    """Adds one to the survivors at every iteration, and notes its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int | None]] = []

    def __call__(self, ticket: Ticket, stop: int | None) -> tuple[dict[str, Any], Any]:
        self.calls.append((ticket.level, stop))
        for _ in range(ticket.iteration, 5 if stop is None else stop):
            ticket.weights["w"].add_(1).mul_(ticket.mask["w"])
        return {**ticket.weights, "level": ticket.level}, {"calls": len(self.calls)}


def weights() -> dict[str, torch.Tensor]:
    return {"w": torch.arange(20.0) - 7.5, "bias": torch.ones(2)}


def ones() -> Mask:
    return Mask({"w": torch.ones(20, dtype=torch.bool)})


def search(folder: Path, train: Callable[..., Any] | None = None, **other: Any) -> list[Level]:
    asked = {"weights": weights(), "mask": ones(), "levels": LEVELS, "rewind": 2, "saved": folder, **other}
    return list(iterative_magnitude_pruning(train or Trainer(), **asked))


def plain(level: Level) -> list[Any]:
    values = [{n: v.tolist() if isinstance(v, torch.Tensor) else v for n, v in part.items()} for part in level[:3]]
    return [*values, level.result]


@pytest.mark.parametrize("retrain", get_args(Retrain))
def test_what_is_kept_is_not_trained_and_a_search_may_grow(retrain: Retrain, tmp_path: Path) -> None:
    folder, how = tmp_path / "new" / "levels", {"retrain": retrain, "iterations": 5}
    again, growing, late = Trainer(), Trainer(), Trainer()
    found = list(map(plain, search(folder, **how)))
    assert list(map(plain, search(str(folder), again, first=1, **how))) == found[1:]
    grown = search(folder, growing, levels=LEVELS + 2, **how)
    assert again.calls == []
    assert [level for level, _ in growing.calls] == [LEVELS + 1, LEVELS + 2]
    assert list(map(plain, grown[: LEVELS + 1])) == found
    assert [plain(level)[:3] for level in search(tmp_path / "late", first=2, **how)] == [
        level[:3] for level in found[2:]
    ]
    assert [plain(level)[:3] for level in search(tmp_path / "late", late, **how)] == [level[:3] for level in found]
    assert late.calls == []
    assert [level.mask.survivors for level in grown] == [20, 16, 13, 10, 8, 6]
    assert [type(level.trained["level"]) for level in grown] == [int] * 6


def test_a_level_prints_what_training_returned_in_one_line() -> None:
    level = Level(ones(), weights(), weights(), {"log": "a\nb" * 100, "accuracy": 98.5})
    assert repr(level).startswith(f"Level({level.mask}, rewound and trained: {len(weights())} tensors each, result={{")
    assert "'accuracy': 98.5" in repr(level)
    assert "\n" not in repr(level)
    assert len(repr(level)) < 250
    padded = level._replace(result=Padded())
    assert repr(padded).endswith("result=Padded accuracy: 98.5)")


class Padded:
    """A result that prints on several lines, as tables do."""

    def __repr__(self) -> str:
        return "Padded\n  accuracy: 98.5"


def test_one_shot_densities_may_grow_and_not_change(tmp_path: Path) -> None:
    def one_shot(train: Trainer, *densities: float) -> list[int]:
        levels = one_shot_pruning(train, weights(), ones(), densities=densities, saved=tmp_path)
        return [level.mask.survivors for level in levels]

    train = Trainer()
    assert one_shot(train, 0.5, 0.2) == [20, 10, 4]
    assert one_shot(train, 0.5, 0.2, 0.9) == [20, 10, 4, 18]
    assert train.calls == [(level, None) for level in range(4)]
    with pytest.raises(ValueError, match=r"level_02\.safetensors is of another search: it keeps 4 weights, and .* 6"):
        one_shot(train, 0.5, 0.3)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "W_0": ({"weights": {**weights(), "bias": torch.tensor([1.0, 1.1])}}, "W_0 is "),
    "type of W_0": ({"weights": {n: w.double() for n, w in weights().items()}}, "W_0 is "),
    "mask": ({"mask": Mask({"w": torch.arange(20) > 0})}, "the first mask is "),
    "rewind": ({"rewind": 3}, "rewind is 2 there and 3 here"),
    "no rewinding": ({"rewind": 0}, "rewind is 2 there and 0 here"),
    "retrain": (
        {"retrain": "learning_rate_rewinding"},
        "retrain is weight_rewinding there and learning_rate_rewinding here",
    ),
    "iterations": ({"iterations": 5}, "iterations is None there and 5 here"),
    "two differences": ({"rewind": 3, "iterations": 5}, "2 there and 3 here; iterations is None there and 5 here; ch"),
    "densities": (
        {"levels": None, "densities": [0.8, 0.6, 0.5]},
        r"level_02.* keeps 13 weights, .* asked for keeps 12",
    ),
    "rate": ({"prune": partial(prune_lowest, rate=0.3)}, r"keeps 16 weights, and the pruning asked for keeps 14"),
    "scores": (
        {"prune": lambda trained, mask: prune_layerwise({"w": -trained["w"].abs()}, mask, 0.2)},
        r"keeps 16 weights, and the pruning asked for keeps 16 or others; prune as before",
    ),
}


def test_a_state_that_no_search_wrote_is_refused(tmp_path: Path) -> None:
    search(tmp_path)
    write_state(tmp_path / "level_01.safetensors", {"w": torch.ones(20)})
    with pytest.raises(ValueError, match=r"level_01\.safetensors is of another search: W_0 is None there and "):
        search(tmp_path)


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_another_search_is_refused_by_name_and_left_as_it_was(name: str, tmp_path: Path) -> None:
    other, said = OTHERS[name]
    search(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.safetensors")}
    train = Trainer()
    with pytest.raises(ValueError, match=said) as refused:
        search(tmp_path, train, first=LEVELS, **other)
    assert str(tmp_path) in str(refused.value)
    assert "choose another folder" in str(refused.value)
    assert train.calls == []
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.safetensors")} == before


def test_a_folder_that_does_not_say_what_was_rewound_is_one_of_weight_rewinding(tmp_path: Path) -> None:
    undisturbed, train = search(tmp_path), Trainer()
    for file in tmp_path.glob("*.safetensors"):
        state = read_state(file)[0]
        del state["search"]["retrain"], state["search"]["iterations"]
        write_state(file, state)
    assert list(map(plain, search(tmp_path, train))) == list(map(plain, undisturbed))
    assert train.calls == []


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("rewound", lambda content: content[:-5]),
        ("level_00", lambda content: content[:4]),
        ("level_02", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("level_02", lambda content: b""),
        ("level_02", lambda content: save({"w": torch.zeros(2)})),
    ],
    ids=["cut off", "cut off in its length", "a bit", "empty", "of another program"],
)
def test_a_damaged_level_is_refused_by_name(name: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    search(tmp_path)
    file = tmp_path / f"{name}.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"{name}\.safetensors is (damaged, or )?not a file of lth_core .* again$"):
        search(tmp_path)


@pytest.mark.parametrize(
    ("name", "rewind", "calls"),
    [("rewound", 0, [(0, None)]), ("rewound", 2, [(0, 2), (0, None)]), ("level_02", 2, [(2, None)])],
)
def test_a_file_that_was_deleted_is_made_again_by_the_training_that_made_it(
    name: str, rewind: int, calls: list[tuple[int, int | None]], tmp_path: Path
) -> None:
    before = [plain(level)[:3] for level in search(tmp_path, rewind=rewind)]
    file, train = tmp_path / f"{name}.safetensors", Trainer()
    whole = read_state(file)[0]
    file.unlink()
    assert [plain(level)[:3] for level in search(tmp_path, train, rewind=rewind)] == before
    assert train.calls == calls
    assert read_state(file)[0].keys() == whole.keys()


def test_what_a_file_cannot_keep_is_said_with_its_place(tmp_path: Path) -> None:
    def train(ticket: Ticket, stop: int | None) -> tuple[dict[str, Any], Any]:
        return {**ticket.weights, "scheduler": {"drawn": [object()]}}, None

    with pytest.raises(ValueError, match=r"^trained/scheduler/drawn/0: a file cannot keep a object; give dict"):
        search(tmp_path, train, rewind=0)
    assert not list(tmp_path.glob("level*"))


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_state_holds_the_optimisers_own(kind: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    torch.manual_seed(3)
    images, labels = torch.randn(12, 6), torch.randint(0, 2, (12,))
    started = []

    def trained(state: dict[str, Any], mask: Mask, first: int, last: int) -> dict[str, Any]:
        """In torch alone; pruned weights are set to 0 by hand."""
        model.load_state_dict({name: value for name, value in state.items() if name != "optimizer"})
        update = torch.optim.Adam(model.parameters(), lr=0.01)
        if "optimizer" in state:
            started.append(state["optimizer"]["state"][0].keys())
            update.load_state_dict(state["optimizer"])
        for _ in range(first, last):
            update.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            update.step()
            for name, kept in mask.items():
                model.get_parameter(name).data[~kept] = 0
        return {**model.state_dict(), "optimizer": update.state_dict()}

    def train(ticket: Ticket, stop: int | None) -> tuple[dict[str, Any], None]:
        return trained(dict(ticket.weights), ticket.mask, ticket.iteration, 6 if stop is None else stop), None

    saved = tmp_path if kind == "folder" else None
    start = train, copied(model.state_dict()), Mask.ones(model)
    list(islice(iterative_magnitude_pruning(*start, levels=2, rewind=2, saved=saved), 2))
    *_, last = iterative_magnitude_pruning(*start, levels=2, rewind=2, saved=saved)
    assert [set(names) for names in started] == [{"step", "exp_avg", "exp_avg_sq"}] * (3 if saved else 5)
    state = {**last.rewound, **{n: torch.where(k, last.rewound[n], 0.0) for n, k in last.mask.items()}}
    assert described(trained(state, last.mask, 2, 6)) == described(last.trained)


def described(state: Any) -> Any:
    """Types, order of keys, and bits."""
    if isinstance(state, torch.Tensor):
        return str(state.dtype), tuple(state.shape), state.flatten().view(torch.uint8).tolist()
    if isinstance(state, dict):
        return "dict", [(type(key), key, described(value)) for key, value in state.items()]
    if isinstance(state, list | tuple):
        return type(state), [described(value) for value in state]
    return type(state), repr(state)


def test_a_copy_keeps_what_is_shared_and_shares_nothing_with_the_original() -> None:
    weight, listed = torch.ones(3), [1]
    held = SimpleNamespace(listed=listed)
    state = OrderedDict(a=weight, nested={"b": [weight, (weight, listed)], 1: np.ones(2), "held": held})
    copy = copied(state)
    assert copy["a"] is copy["nested"]["b"][0] is copy["nested"]["b"][1][0]
    weight.zero_()
    listed.clear()
    state["nested"][1][:] = 0
    assert copy["a"].tolist() == [1, 1, 1]
    assert copy["nested"]["b"][1][1] == [1]
    assert copy["nested"][1].tolist() == [1, 1]
    assert copy["nested"]["held"].listed == [1]


TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.int16, torch.bool]


@st.composite
def any_tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bits: -0.0, infinities, and NaN with a payload among them."""
    dtype = draw(st.sampled_from(TYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = dtype.itemsize * int(np.prod(shape))
    raw = torch.tensor(list(draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
    return (raw % 2 == 1 if dtype == torch.bool else raw.view(dtype)).view(shape)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
STATES = st.recursive(
    SCALARS | any_tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.booleans(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), STATES, max_size=4))
def test_a_state_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> None:
    file = tmp_path_factory.mktemp("states") / "state.safetensors"
    written = write_state(file, state)
    assert (described(read_state(file)[0]), read_state(file)[1]) == (described(state), written)
    assert described(copied(state)) == described(state)


def test_names_that_could_be_taken_for_each_other_stay_apart(tmp_path: Path) -> None:
    one, two, three, four, five = (torch.tensor(i) for i in range(5))
    state = {"a/b": one, "a": {"b": two}, "__metadata__": three, "c": {1: four, "1": five}}
    write_state(tmp_path / "state", state)
    assert described(read_state(tmp_path / "state")[0]) == described(state)


def test_shared_tensors_are_stored_once_and_shared_again(tmp_path: Path) -> None:
    weight = torch.rand(5000)
    write_state(tmp_path / "state", {"a": weight, "b": weight, "other": {"of": [weight]}})
    assert (tmp_path / "state").stat().st_size < 1.1 * 4 * 5000
    state, _ = read_state(tmp_path / "state")
    assert state["a"] is state["b"] is state["other"]["of"][0]


def test_tensors_that_are_made_on_access_are_not_taken_for_one(tmp_path: Path) -> None:
    """A mask hands out copies, and the next copy may have the memory of the one before."""
    torch.manual_seed(0)
    mask = Mask({f"{number}.weight": torch.rand(300, 300) < 0.5 for number in range(6)})
    write_state(tmp_path / "state", {"mask": mask})
    assert Mask(read_state(tmp_path / "state")[0]["mask"]) == mask
    assert Mask(copied({"mask": mask})["mask"]) == mask


def test_a_number_of_numpy_is_read_as_a_number(tmp_path: Path) -> None:
    write_state(tmp_path / "state", {"loss": np.float32(0.5), "step": np.int64(3)})
    assert read_state(tmp_path / "state")[0] == {"loss": 0.5, "step": 3}


@pytest.mark.parametrize(
    "value", [np.ones(2), {1, 2}, 1j, torch.zeros(2).to_sparse(), torch.Size([1])], ids=lambda v: type(v).__name__
)
def test_other_values_are_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^a/x: a file cannot keep a {type(value).__name__}"):
        write_state(tmp_path / "state", {"a": {"x": value}})
    with pytest.raises(ValueError, match=r"state: tensors of torch.complex128 cannot be written; convert them"):
        write_state(
            tmp_path / "state", {"a": torch.zeros(2, dtype=torch.complex128)}, {"a": torch.tensor([True, False])}
        )
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]
