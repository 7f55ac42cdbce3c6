"""The recipes of the page "Your own network" run as they stand."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

from lth_core import Level, Mask, Ticket

PAGE = (ROOT / "book" / "own_network.md").read_text()
RECIPES = dict(re.findall(r"% recipe: (\w+)\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL))
NEEDS = {"lightning": "lightning", "transformers": "transformers"}


def ran(recipe: str) -> dict[str, Any]:
    if (needed := NEEDS.get(recipe)) and find_spec(needed) is None:
        pytest.skip(f"needs {needed}, which is not installed: pip install {needed}")
    namespace: dict[str, Any] = {}
    exec(RECIPES[recipe], namespace)
    return namespace


def test_every_block_of_the_page_is_a_recipe() -> None:
    assert PAGE.count("```python") == len(RECIPES) == 8


@pytest.mark.filterwarnings("default")  # of other people's packages
@pytest.mark.parametrize(("recipe", "levels"), [("plain", 3), ("resumed", 4), ("lightning", 2), ("transformers", 2)])
def test_a_search_ends_with_a_ticket_whose_pruned_weights_are_zero(
    recipe: str, levels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    level = ran(recipe)["level"]
    assert isinstance(level, Level)
    assert level.mask.density == pytest.approx(0.8**levels, abs=0.01)
    for name, weight in level.mask.fitting(level.trained).items():
        assert not weight[~level.mask[name]].any()
        assert weight[level.mask[name]].any()


def test_a_search_that_is_run_again_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran("resumed")
    first = capsys.readouterr().out
    written = {file: file.stat().st_mtime_ns for file in Path("levels").iterdir()}
    ran("resumed")
    assert capsys.readouterr().out == first
    assert {file: file.stat().st_mtime_ns for file in Path("levels").iterdir()} == written


def test_a_transformer_is_pruned_but_for_what_is_excluded() -> None:
    mask = ran("transformer")["mask"]
    assert isinstance(mask, Mask)
    attention, feedforward = 3 * 32 * 32 + 32 * 32, 2 * 32 * 64
    assert mask.size == 2 * (attention + feedforward)


def test_a_search_with_variations_ends_at_its_target_and_keeps_its_floor() -> None:
    level = ran("variations")["level"]
    assert isinstance(level, Level)
    assert level.mask.survivors == round(0.1 * (20 * 64 + 64 * 3))
    assert min(level.mask.density_by_layer().values()) >= 0.05
    for name, weight in level.mask.fitting(level.rewound).items():  # trained and pruned at the level before
        assert int(weight.count_nonzero()) < weight.numel()
        assert weight[level.mask[name]].all()


def test_a_saved_ticket_is_the_one_that_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = ran("ticket")
    ticket, mask = namespace["ticket"], namespace["mask"]
    assert ticket.mask == mask
    assert int((ticket.weights["weight"] != 0).sum()) == mask.survivors == 100


def test_a_committed_ticket_is_loaded_with_torch_and_safetensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    loaded = ran("download")
    assert "lth_" not in RECIPES["download"]
    ticket = Ticket.load(str(loaded["folder"]))
    assert Mask(loaded["mask"]) == ticket.mask
    state = loaded["model"].state_dict()
    assert state.keys() == ticket.weights.keys()
    assert all((state[name] == weight).all() for name, weight in ticket.weights.items())
