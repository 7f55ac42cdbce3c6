"""A ticket on disk: the same bits when loaded, small, told on its card, and harmless whoever made it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from project import ROOT, link_packages, python
from safetensors.torch import load_file, save_file

from lth_core import Mask, Ticket, load_about, load_trained, subnetwork
from lth_core.card import LOADER, SECTIONS

ABOUT = {
    "network": "LeNet-300-100",
    "build": "nn.Linear(3, 4)\n```\nnot the end",
    "data": "MNIST",
    "fingerprint": "0123abcd",
    "recipe": "standard",
    "iterations": 5000,
    "seed": 3,
    "order": 0,
    "accuracy": {"test": 98.2, "dense": 98.1},
    "stability_to_pruning": {"l2": 3.5, "angle": 20.1},
    "licence": "MIT",
    "citation": "@misc{ticket}",
    "mood of the\nmaker": [1, None],
}


def bits(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return str(state.dtype), tuple(state.shape), state.flatten().view(torch.uint8).tolist()
    return [(key, bits(value)) for key, value in state.items()] if isinstance(state, dict) else state


@pytest.fixture
def ticket() -> Ticket:
    """Conv, linear, bias, an integer buffer, a moment of the optimiser; pruned weights are 0.0."""
    torch.manual_seed(4)
    weights = {"conv": torch.randn(4, 3, 3, 3), "fc": torch.randn(5, 7).bfloat16(), "bias": torch.tensor([0.0, -0.0])}
    weights |= {"count": torch.tensor(7), "optimizer": {"state": {0: {"exp_avg": torch.zeros(4, 3, 3, 3)}}, "lr": 0.1}}
    mask = Mask({"fc": torch.rand(5, 7) < 0.4, "conv": torch.rand(4, 3, 3, 3) < 0.1})
    weights["conv"][mask["conv"]] = torch.tensor([-0.0, float("inf"), *[0.5] * (int(mask["conv"].sum()) - 2)])
    return subnetwork(weights, mask, 500, 9)


@pytest.fixture
def folder(ticket: Ticket, tmp_path: Path) -> Path:
    trained = {name: w + 0 if isinstance(w, torch.Tensor) else w for name, w in ticket.weights.items()}
    ticket.save(tmp_path / "ticket", trained=trained, about=ABOUT)
    return tmp_path / "ticket"


@st.composite
def tickets(draw: st.DrawFn) -> Ticket:
    """Survivors of any bits: -0.0, infinities, NaN with a payload. Pruned weights are 0.0, -0.0 or NaN."""
    mask, weights = {}, {}
    for name in draw(st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True)):
        dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
        shape = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
        size = int(np.prod(shape))
        raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
        weights[name] = torch.tensor(list(raw), dtype=torch.uint8).view(dtype).view(shape)
        kept = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        mask[name] = torch.tensor(kept, dtype=torch.bool).view(shape)
        weights[name][~mask[name]] = draw(st.sampled_from([0.0, -0.0, float("nan")]))  # NaN: a training diverged
        if draw(st.booleans()):
            weights[f"{name} again"] = weights[name]
    count = st.integers(0, 9)
    return Ticket(Mask(mask), weights, draw(count), draw(count), draw(st.none() | count))


@given(tickets())
def test_any_ticket_keeps_its_bits(tmp_path_factory: pytest.TempPathFactory, given_in: Ticket) -> None:
    folder = tmp_path_factory.mktemp("ticket")
    given_in.save(folder, trained=given_in.weights)
    loaded = Ticket.load(str(folder))
    assert loaded == given_in
    assert list(loaded.mask) == list(given_in.mask)
    assert bits(loaded.weights) == bits(load_trained(folder)) == bits(given_in.weights)
    assert all(loaded.weights[n] is loaded.weights[f"{n} again"] for n in loaded.mask if f"{n} again" in loaded.weights)


def test_tickets_are_equal_that_train_alike(ticket: Ticket) -> None:
    assert ticket == replace(ticket, weights=ticket.weights | {"bias": torch.tensor([0.0, -0.0])})
    assert ticket != replace(ticket, weights=ticket.weights | {"bias": torch.tensor([0.0, 0.0])})
    for change in ({"level": 1}, {"iteration": 1}, {"remaining": 1}, {"mask": Mask.ones(ticket.mask)}):
        assert ticket != replace(ticket, **change)
    assert ticket != "a ticket"


def test_numbers_as_keys_of_what_its_maker_says_become_text(ticket: Ticket, tmp_path: Path) -> None:
    ticket.save(tmp_path / "ticket", about={"accuracy_by_level": {0: 1.0, 5: 2.0, 10: 3.0, "best": 3.0}})
    Ticket.load(tmp_path / "ticket")
    assert load_about(tmp_path / "ticket")["accuracy_by_level"] == {"0": 1.0, "5": 2.0, "10": 3.0, "best": 3.0}


@pytest.mark.parametrize("wrong", [{"level": np.int64(1)}, {"iteration": 1e3}, {"remaining": -1}, {"level": True}])
def test_a_place_that_is_no_whole_number_is_refused_before_anything_is_written(
    wrong: dict[str, Any], ticket: Ticket, folder: Path
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; expected a whole number from 0"):
        replace(ticket, **wrong).save(folder)
    assert Ticket.load(folder).level == ticket.level


def test_the_files_hold_packed_bits_and_the_survivors_in_order(ticket: Ticket, folder: Path) -> None:
    stored, packed = load_file(folder / "rewound.safetensors"), load_file(folder / "mask.safetensors")
    for name in ("conv", "fc"):
        kept = ticket.mask[name].flatten().tolist()
        by_hand = [int("".join("01"[k] for k in kept[i : i + 8]).ljust(8, "0"), 2) for i in range(0, len(kept), 8)]
        assert packed[name].tolist() == by_hand == np.packbits(kept).tolist()
        values = [w for w, k in zip(ticket.weights[name].flatten().tolist(), kept, strict=True) if k]
        assert stored[name].tolist() == values
    assert stored["bias"].shape == (2,)
    # a moment of this shape, 0.0 where weights are pruned
    assert len(stored["optimizer/state/0/exp_avg"]) == ticket.mask["conv"].sum()
    assert stored["count"].tolist() == 7


def test_how_many_iterations_remain_is_told_where_it_is_known(ticket: Ticket, tmp_path: Path) -> None:
    for remaining in (None, 0, 700):
        replace(ticket, remaining=remaining).save(tmp_path)
        facts, card = json.loads((tmp_path / "ticket.json").read_text()), (tmp_path / "README.md").read_text()
        assert ("remaining" in facts) == (remaining is not None)
        assert (f"at iteration 500 and goes on for {remaining}." in card) == (remaining is not None)


def test_the_card_tells_everything(ticket: Ticket, folder: Path) -> None:
    assert load_about(folder) == ABOUT
    card = (folder / "README.md").read_text()
    for title in (*SECTIONS, "Other", "Load it"):
        assert f"\n## {title}\n" in card
    assert "# Lottery ticket: LeNet-300-100, level 9\n" in card
    kept, size = sum(int(m.sum()) for m in ticket.mask.values()), 5 * 7 + 4 * 27
    assert f"{100 * kept / size:.4f}% of the weights" in card
    assert "at iteration 500 of 5000." in card
    for line in ("- Fingerprint: 0123abcd", "- Seed: 3", "- Accuracy: test 98.2, dense 98.1", "- Licence: MIT"):
        assert f"\n{line}\n" in card
    assert "\n- Stability to pruning: l2 3.5, angle 20.1\n" in card
    assert "\n- Mood of the maker: [1, None]\n" in card
    assert "\n````python\nnn.Linear(3, 4)\n```\nnot the end\n````\n" in card
    assert card.split("## Make it again\n")[1].split("##")[0].strip() == "Not given."
    assert card.startswith('---\nlibrary_name: "lth-core"\n')
    assert '\nlicense: "mit"\n---\n' in card


WHOLE = """\
---
library_name: "lth-core"
tags: ["lottery-ticket-hypothesis", "pruning"]
---
# Lottery ticket: a network, level 2

75.0000% of the weights under the mask are left after 2 prunings. Training starts from the rewound weights at iteration 7.

| layer | density |
|---|---|
| `w` | 75.0000% |

## Network

- Method: imp

Build:

```python
nn.Linear(2, 2)
```

## Data

Not given.

## Training

- Seed: 3
- Order: 0

## Results

Not given.

## Make it again

Not given.

## Licence

Not given.

## How to cite

Not given.

## Load it

`lth_core.Ticket.load(folder)` checks every file. Without lth_core, run this in the folder. It leaves out what is nested, such as an optimiser's moments.

```python
"""  # noqa: E501


def test_a_card_of_little_is_this(tmp_path: Path) -> None:
    mask = Mask({"w": torch.tensor([[True, True], [False, True]])})
    about = {"method": "imp", "build": "nn.Linear(2, 2)", "seed": 3, "order": 0}
    Ticket(mask, {"w": mask["w"].float()}, 7, 2).save(tmp_path, about=about)
    assert (tmp_path / "README.md").read_text() == f"{WHOLE}{LOADER}```\n"


def test_a_card_has_no_empty_lines_in_a_row_and_its_maker_names_the_kind(ticket: Ticket, tmp_path: Path) -> None:
    ticket.save(tmp_path, about={"kind": "Random subnetwork", "network": "MLP", "command": "a\nb", "citation": "c"})
    card = (tmp_path / "README.md").read_text()
    assert "\n# Random subnetwork: MLP, level 9\n" in card
    assert "\n\n\n" not in card
    assert "\n## Make it again\n\nCommand:\n\n```bash\na\nb\n```\n\n## Licence\n\nNot given.\n" in card
    with pytest.raises(ValueError, match="about: Object of type Tensor is not JSON serializable; give text"):
        ticket.save(tmp_path / "t", about={"accuracy": torch.ones(1)})
    assert not (tmp_path / "t").exists()


def test_the_cards_loader_needs_torch_and_safetensors_alone(ticket: Ticket, folder: Path, tmp_path: Path) -> None:
    packages = link_packages(tmp_path / "packages", ["torch", "safetensors"], without=frozenset({"numpy"}))
    (loader,) = re.findall(r"```python\n(import json.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert loader == LOADER
    told = """
import sys
plain = lambda t: [str(t.dtype), list(t.shape), t.flatten().view(torch.uint8).tolist()]
print(json.dumps([{n: plain(t) for n, t in of.items()} for of in (mask, weights)]))
print(*(name for name in ("numpy", "lth_core") if name in sys.modules))
"""
    ran = python(packages, loader + told, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    mask, weights = json.loads(ran.stdout.splitlines()[0])
    assert ran.stdout.splitlines()[1] == ""
    expected = [{n: list(bits(t)) for n, t in of.items() if n != "optimizer"} for of in (ticket.mask, ticket.weights)]
    assert [mask, weights] == json.loads(json.dumps(expected))


def test_saving_again_leaves_nothing_of_the_ticket_before(ticket: Ticket, folder: Path) -> None:
    Ticket(ticket.mask, ticket.weights, 3, 1).save(folder)
    assert (Ticket.load(folder).iteration, Ticket.load(folder).level) == (3, 1)
    assert sorted(os.listdir(folder)) == ["README.md", "mask.safetensors", "rewound.safetensors", "ticket.json"]
    with pytest.raises(ValueError, match="ticket was saved without the trained state; train the ticket"):
        load_trained(folder)


def test_a_save_that_fails_leaves_no_half_of_a_ticket(
    ticket: Ticket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lth_core.states.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        ticket.save(folder)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"is no ticket: there is no .*ticket\.json"):
        Ticket.load(folder)
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
    monkeypatch.setattr("lth_core.states.open", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        ticket.save(folder.parent / "far" / "away")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"w": {"nested": 1}}, "the rewound state: 'w' is in the mask, but not"),
        ({"w": torch.zeros(3)}, "'w': mask has shape (2,), not (3,)"),
        ({"w": torch.ones(2)}, "'w' is not 0 where its mask prunes; call mask.apply_(weights) first"),
        ({"w": torch.zeros(2), "x": [print]}, "x/0: a file cannot keep a builtin_function_or_method"),
    ],
)
def test_what_cannot_be_saved_is_said(weights: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Ticket(Mask({"w": torch.tensor([True, False])}), weights, 0, 1).save(tmp_path / "t")
    assert not (tmp_path / "t" / "ticket.json").exists()


def changed(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        facts = json.loads((folder / "ticket.json").read_text())
        (folder / "ticket.json").write_text(json.dumps({**facts, **changes}))

    return change


def cut(name: str, length: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def flipped(name: str) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return flip


def other_mask(folder: Path) -> None:
    Mask({"fc": torch.ones(5, 7), "conv": torch.ones(4, 3, 3, 3)}).save(folder / "mask.safetensors")


def without_a_tensor(folder: Path) -> None:
    """A stranger's file whose header tells of a tensor that is not there."""
    from safetensors import safe_open

    with safe_open(folder / "rewound.safetensors", "pt") as file:
        about = file.metadata()
    save_file({"fc": torch.zeros(1)}, folder / "rewound.safetensors", about)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (lambda folder: folder.rename(folder.with_name("x")), "is no ticket: .* Hugging Face Hub is hf://"),
    "cut ticket.json": (cut("ticket.json", 40), r"ticket\.json is damaged"),
    "a list": (lambda folder: (folder / "ticket.json").write_text("[]"), r"ticket\.json is damaged"),
    "deep": (lambda folder: (folder / "ticket.json").write_text("[" * 100_000), r"ticket\.json is damaged"),
    "version": (changed(format=2), r"ticket\.json is of format 2, and this lth_core reads 1; install"),
    "level": (changed(level=-1), r"ticket\.json: level is -1"),
    "iteration": (changed(iteration="500"), r"ticket\.json: iteration is '500'"),
    "remaining": (changed(remaining=-1), r"ticket\.json: remaining is -1"),
    "no remaining": (changed(remaining=None), r"ticket\.json: remaining is None"),
    "density": (changed(density=0.5), r"ticket\.json: density is 0\.5, its mask's 0\."),
    "checksums": (changed(checksums=["../../etc/passwd"]), r"ticket\.json: checksums is \['\.\./\.\./etc"),
    "no mask": (lambda folder: (folder / "mask.safetensors").unlink(), r"mask\.safetensors is missing"),
    "cut mask": (cut("mask.safetensors", -3), r"mask\.safetensors is damaged, or not a file of lth_core"),
    "other mask": (other_mask, r"mask\.safetensors is not the file that ticket\.json tells of"),
    "cut state": (cut("rewound.safetensors", 300), r"rewound\.safetensors is damaged"),
    "a bit": (
        flipped("rewound.safetensors"),
        r"damaged, or not a file of lth_core \(its content does not match its ch",
    ),
    "no tensor": (without_a_tensor, r"rewound\.safetensors is damaged"),
    "a folder": (
        lambda folder: ((folder / "rewound.safetensors").unlink(), (folder / "rewound.safetensors").mkdir()),
        r"rewound\.safetensors is missing, or no file",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_clear_sentence(fault: str, folder: Path) -> None:
    damage, said = FAULTS[fault]
    damage(folder)
    with pytest.raises(ValueError, match=said) as refused:
        Ticket.load(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_fact_that_changed_is_noticed_where_the_ticket_has_a_checksum_over_its_facts(folder: Path) -> None:
    file = folder / "ticket.json"
    facts = json.loads(file.read_text())
    for change in ({"iteration": facts["iteration"] + 1}, {"about": facts["about"] | {"accuracy": 99.0}}):
        file.write_text(json.dumps(facts | change))
        with pytest.raises(
            ValueError, match=r"ticket\.json is altered: its facts do not match its checksum; save or do"
        ):
            Ticket.load(folder)
    file.write_text(json.dumps(dict(reversed(facts.items()))))  # another writer's order changes no fact
    assert Ticket.load(folder).iteration == facts["iteration"]
    del facts["checksums"]["facts"]  # as in tickets from before there was one
    file.write_text(json.dumps(facts | {"iteration": 7}))
    assert Ticket.load(folder).iteration == 7


def forged(folder: Path, name: str, tensors: dict[str, torch.Tensor], tree: Any) -> None:
    """A stranger's file, with the right checksums."""
    from lth_core.states import _checksum

    about = {"tree": json.dumps(tree), "sha256": _checksum(tensors, json.dumps(tree))}
    save_file(tensors, folder / f"{name}.safetensors", about)
    facts = json.loads((folder / "ticket.json").read_text())
    facts["checksums"][name] = about["sha256"]
    (folder / "ticket.json").write_text(json.dumps(facts))


def leaf(**of: Any) -> Any:
    return {"dict": [["fc", {"tensor": "fc", **of}]]}


CONV = [["conv", {"tensor": "conv"}]]


@pytest.mark.parametrize(
    ("name", "stored", "tree", "said"),
    [
        ("mask", torch.zeros(4), leaf(bits=[33]), r"'fc' holds 4 bytes, not the bits of shape \[33\]"),
        ("mask", torch.zeros(1), leaf(bits=[-1, -8]), r"'fc' holds 1 bytes, not the bits of shape \[-1, -8\]"),
        ("mask", torch.zeros(4), leaf(bits=[32]), "Expected an input array of unsigned byte"),
        ("mask", torch.zeros(4), leaf(tensor="/etc/passwd"), "lacks '/etc/passwd'"),
        ("mask", torch.zeros(4), leaf(), r"mask\.safetensors holds no mask; save or download the ticket again"),
        ("mask", torch.zeros(4), {"dict": [["fc", "text"]]}, "holds no mask"),
        ("rewound", torch.zeros(3), leaf(mask="fc"), r"'fc' holds 3 values, its mask keeps \d+"),
        ("rewound", torch.zeros(3), leaf(mask="other"), "lacks 'other'"),
        ("rewound", torch.zeros(3), leaf(), r"'fc': mask has shape \(5, 7\), not \(3,\)"),
        ("rewound", torch.zeros(3), {"dict": []}, "'fc' is in the mask, but not"),
        ("rewound", torch.zeros(3), {"dict": [["fc", "text"]]}, "'fc' is in the mask, but not"),
        ("rewound", torch.ones(5, 7), leaf(), "'conv' is in the mask, but not"),
        ("rewound", torch.ones(5, 7), {"dict": leaf()["dict"] + CONV}, "'fc' is not 0 where its mask prunes"),
    ],
)
def test_a_forged_file_is_refused(name: str, stored: torch.Tensor, tree: Any, said: str, folder: Path) -> None:
    """`test_security` has other trees that make no state."""
    forged(folder, name, {"fc": stored, "conv": torch.zeros(4, 3, 3, 3)}, tree)
    with pytest.raises(ValueError, match=said) as refused:
        Ticket.load(folder)
    assert "\n" not in str(refused.value)


def test_nothing_is_written_outside_the_folder_and_nothing_is_run(ticket: Ticket, folder: Path, tmp_path: Path) -> None:
    """A folder whose files are links to others: saving replaces the links; loading writes nothing."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("README.md", "mask.safetensors", "rewound.safetensors", "trained.safetensors", "ticket.json"):
        (outside / name).write_text("precious")
        (folder / name).unlink()
        (folder / name).symlink_to(outside / name)
    with pytest.raises(ValueError, match=r"ticket\.json is damaged"):
        Ticket.load(folder)
    named = subnetwork(
        {**ticket.weights, "../escaped": torch.ones(1), "/tmp/escaped": torch.ones(1)}, ticket.mask, 0, 1
    )
    named.save(folder)
    before = sorted(tmp_path.rglob("*"))
    assert bits(Ticket.load(folder).weights) == bits(named.weights)
    assert sorted(tmp_path.rglob("*")) == before
    assert {file.read_text() for file in outside.iterdir()} == {"precious"}
    assert not any(file.is_symlink() for file in folder.iterdir())
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("source", ["hf://name", "hf:owner/name", "hf://../name", "hf://a/../b", "hf://a/b@c/d"])
def test_a_name_that_the_hub_cannot_have_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"names no ticket on the Hub; expected hf://owner/name or hf://owner"):
        Ticket.load(source)


def test_what_is_not_written_as_the_hubs_is_a_path_and_nothing_is_saved_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ticket: Ticket, folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    folder.rename(tmp_path / "owner" / "name")
    assert Ticket.load("owner/name").level == 9
    with pytest.raises(ValueError, match=r"^hf://a/b is no folder here; save into one, then use huggingface_hub"):
        ticket.save("hf://a/b")
    assert not (tmp_path / "hf:").exists()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"^hf://a/b needs huggingface_hub; pip install 'lth-core\[hub\]'$"):
        Ticket.load("hf://a/b")


class Hub(BaseHTTPRequestHandler):
    """A stand-in for the Hub: one repository `maker/ticket`, whose list of files cannot be trusted."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]] = []
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self) -> None:
        self.asked.append(self.path)
        found = re.fullmatch(rf"/maker/ticket/resolve/{self.commit}/([\w.]+)", self.path)
        names = [*os.listdir(self.folder), "../escaped.json", "/tmp/escaped.json", "sub/ticket.json"]
        if re.fullmatch(r"/api/models/maker/ticket/revision/(main|v1)", self.path):
            about = {"id": "maker/ticket", "sha": self.commit, "siblings": [{"rfilename": name} for name in names]}
            self.answer(200, json.dumps(about).encode(), "application/json")
        elif self.path.startswith(f"/api/models/maker/ticket/tree/{self.commit}"):
            files = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
            self.answer(200, json.dumps(files).encode(), "application/json")
        elif found is not None and (self.folder / found[1]).is_file():
            self.answer(200, (self.folder / found[1]).read_bytes(), "application/octet-stream", f'"{found[1]}"')
        else:
            self.answer(404, b"{}", "application/json")

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes, kind: str, tag: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if tag is not None:
            self.send_header("ETag", tag)
            self.send_header("X-Repo-Commit", self.commit)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_the_hubs_client_is_asked_for_a_tickets_own_files_and_its_errors_are_one_sentence(
    ticket: Ticket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, sorted(allow_patterns)))
        if name == "maker/none":
            raise RuntimeError("\n404: no such thing\nand more")
        if name == "maker/silent":
            raise RuntimeError
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert Ticket.load("hf://maker/ticket@v1") == Ticket.load("hf://maker/ticket") == ticket
    files = ["README.md", "mask.safetensors", "rewound.safetensors", "ticket.json", "trained.safetensors"]
    assert asked == [("maker/ticket", "v1", files), ("maker/ticket", None, files)]
    for source, why in (("hf://maker/none", "404: no such thing"), ("hf://maker/silent", "no reason given")):
        said = f"{source} cannot be downloaded (RuntimeError: {why}); check its name and the network"
        with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
            Ticket.load(source)


def test_a_ticket_is_loaded_from_the_hub(ticket: Ticket, folder: Path, tmp_path: Path) -> None:
    if find_spec("huggingface_hub") is None:
        pytest.skip("needs huggingface_hub, which is not installed; pip install 'lth-core[hub]'")
    (folder / "model.pkl").write_bytes(b"not to be taken")
    Hub.folder, Hub.asked = folder, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    code = """
import sys
from lth_core import Ticket
for source in sys.argv[1:]:
    try:
        ticket = Ticket.load(source)
        print(ticket.level, ticket.mask.survivors, float(ticket.weights["fc"].float().abs().sum()))
    except ValueError as error:
        print(error)
"""
    home = tmp_path / "home"
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home)}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, "hf://maker/ticket", "hf://maker/ticket@v1", "hf://maker/none"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    server.shutdown()
    server.server_close()
    assert ran.returncode == 0, ran.stderr
    *loaded, missing = ran.stdout.splitlines()
    expected = f"9 {ticket.mask.survivors} {float(ticket.weights['fc'].float().abs().sum())}"
    assert loaded == [expected, expected]
    assert missing.startswith("hf://maker/none cannot be downloaded (")
    assert missing.endswith("; check its name and the network")
    assert not any("pkl" in path or "escaped" in path or "sub/" in path for path in Hub.asked)
    downloaded = {file.name for file in home.rglob("snapshots/*/*")}
    assert downloaded == {"README.md", "mask.safetensors", "rewound.safetensors", "trained.safetensors", "ticket.json"}
    assert not list(tmp_path.rglob("escaped*"))
