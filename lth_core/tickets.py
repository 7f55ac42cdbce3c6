"""A ticket, and a ticket on disk: a folder that anyone can load with torch and safetensors alone.

    mask.safetensors       packed bits
    rewound.safetensors    the state that training starts from; of masked weights the survivors alone
    trained.safetensors    the state that training ended with, where it was saved
    ticket.json            level, iteration, densities, checksums, and what its maker says about it
    README.md              the card (`lth_core.card`)

Loading runs no code and writes nothing. The names of files are fixed; no file names another.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lth_core.card import card
from lth_core.masks import Mask
from lth_core.states import Weights, fingerprint, read_state, write_atomic, write_state

FORMAT = 1
"""The version of the folder's format. It changes when an older `Ticket.load` would misread a folder."""

Source = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Ticket:
    """A subnetwork to train: a mask, the weights it starts from (pruned ones at 0.0), and where its schedule starts.

    The weights are the ticket's own copies: training may change them freely. `iteration` is where the schedule of the
    learning rate starts. `remaining` is how many iterations are trained from there, or None if nobody said: then it is
    all that are left of the schedule.
    """

    mask: Mask
    weights: Weights = field(repr=False)
    iteration: int
    level: int
    remaining: int | None = None

    def __eq__(self, other: object) -> bool:
        """Whether two tickets train alike: the same mask, place in the schedule, and weights bit by bit."""
        if not isinstance(other, Ticket):
            return NotImplemented
        mine, others = (
            (each.mask, each.iteration, each.level, each.remaining, fingerprint(each.weights)) for each in (self, other)
        )
        return mine == others

    __hash__ = None  # type: ignore[assignment]

    def save(self, folder: Source, *, trained: Weights | None = None, about: Mapping[str, Any] | None = None) -> None:
        """Write the ticket into a folder, in place of a ticket that is there.

        `trained` is the state at the end of training, to keep beside the rewound one. `about` is what the card tells,
        as JSON can hold it: the keys of `lth_core.card.SECTIONS`, and any others.

        All bits are kept. A weight takes one bit, and its own bytes beside it if it survives: at a density of 10%,
        float32 weights take 13% of their bytes. An optimiser's moments do if they are 0.0 where weights are pruned.

        Raises `ValueError` where the mask does not fit, a pruned weight is not 0, or a file cannot keep a value.
        """
        if str(folder).startswith("hf:"):
            raise ValueError(f"{folder} is no folder here; save into one, then use huggingface_hub.upload_folder")
        folder, about = Path(folder), dict(about or {})
        for key in ("level", "iteration", "remaining"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise ValueError(f"{key} is {value!r}; expected a whole number from 0")
        states = {"rewound": self.weights, **({} if trained is None else {"trained": trained})}
        for name, state in states.items():
            _check_fits(self.mask, state, f"the {name} state")
        facts = {
            "format": FORMAT,
            "level": self.level,
            "iteration": self.iteration,
            **({} if self.remaining is None else {"remaining": self.remaining}),
            "density": self.mask.density,
            "density_by_layer": self.mask.density_by_layer(),
        }
        text = card(facts, about)
        try:
            about = json.loads(json.dumps(about))  # as `load` will read it: keys are text
        except TypeError as error:
            raise ValueError(f"about: {error}; give text, numbers, lists and mappings of these") from None
        for old in ("ticket.json", "trained.safetensors"):  # a folder is a ticket again when ticket.json is written
            (folder / old).unlink(missing_ok=True)
        checksums = {"mask": write_state(folder / "mask.safetensors", self.mask.by_every_name())}
        for name, state in states.items():
            checksums[name] = write_state(folder / f"{name}.safetensors", state, self.mask)
        write_atomic(folder / "README.md", text.encode())
        checksums["facts"] = _checksum({**facts, "about": about})
        content = json.dumps({**facts, "checksums": checksums, "about": about}, indent=1)
        write_atomic(folder / "ticket.json", content.encode())

    @classmethod
    def load(cls, source: Source) -> Ticket:
        """The ticket of a folder, or of the Hugging Face Hub: `hf://owner/name`, or `hf://owner/name@revision`.

        Any other text is a path, and nothing is downloaded for it. Weights are loaded onto the processor.

        Raises `ValueError` with one sentence for a folder that is no ticket, of another format, cut off or altered, or
        whose mask does not fit. Raises `ModuleNotFoundError` where the Hub's client is not installed.
        """
        folder, facts, mask = _opened(source)
        state = _state(folder, facts, mask, "rewound")
        return cls(mask, state, facts["iteration"], facts["level"], facts.get("remaining"))


def load_trained(source: Source) -> dict[str, Any]:
    """The trained state of a saved ticket. Raises `ValueError` as `Ticket.load` does, and where it was not saved."""
    folder, facts, mask = _opened(source)
    if "trained" not in facts["checksums"]:
        raise ValueError(f"{folder} was saved without the trained state; train the ticket to have it")
    return _state(folder, facts, mask, "trained")


def load_about(source: Source) -> dict[str, Any]:
    """What the maker of a saved ticket says about it. Raises `ValueError` as `Ticket.load` does."""
    about: dict[str, Any] = _opened(source)[1]["about"]
    return about


def _opened(source: Source) -> tuple[Path, dict[str, Any], Mask]:
    """The folder, the content of ticket.json and the mask, checked."""
    folder = _downloaded(source) if isinstance(source, str) and source.startswith("hf:") else Path(source)
    file = folder / "ticket.json"
    if not file.is_file():
        raise ValueError(f"{folder} is no ticket: there is no {file}; one on the Hugging Face Hub is hf://owner/name")
    try:
        facts = json.loads(file.read_bytes())
        version = facts["format"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); save or download the ticket again") from None
    if version != FORMAT:
        raise ValueError(f"{file} is of format {version!r}, and this lth_core reads {FORMAT}; install the one it needs")
    kinds = {"level": int, "iteration": int, "density": float, "checksums": dict, "about": dict}
    for key, kind in (kinds | ({"remaining": int} if "remaining" in facts else {})).items():
        if type(facts.get(key)) is not kind or (kind is int and facts[key] < 0):
            raise ValueError(f"{file}: {key} is {facts.get(key)!r}; save or download the ticket again")
    kept = _state(folder, facts, Mask({}), "mask")
    if not all(isinstance(layer, Tensor) and layer.dtype == torch.bool for layer in kept.values()):
        raise ValueError(f"{folder / 'mask.safetensors'} holds no mask; save or download the ticket again")
    mask = Mask.of_state(kept)
    if mask.density != facts["density"]:
        raise ValueError(f"{file}: density is {facts['density']}, its mask's {mask.density}; download the ticket again")
    said = {name: value for name, value in facts.items() if name != "checksums"}
    if facts["checksums"].get("facts", _checksum(said)) != _checksum(said):  # older tickets have none
        raise ValueError(f"{file} is altered: its facts do not match its checksum; save or download the ticket again")
    return folder, facts, mask


def _checksum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _state(folder: Path, facts: Mapping[str, Any], mask: Mask, name: str) -> dict[str, Any]:
    file = folder / f"{name}.safetensors"
    state, checksum = read_state(file, mask)
    if checksum != facts["checksums"].get(name):
        raise ValueError(f"{file} is not the file that ticket.json tells of; save or download the ticket again")
    _check_fits(mask, state, str(file))
    return state


def _check_fits(mask: Mask, state: Weights, where: str) -> None:
    """Check that a state has the mask's weights, with 0.0 where it prunes."""
    try:
        weights = mask.fitting({name: value for name, value in state.items() if isinstance(value, Tensor)})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    for name, weight in weights.items():
        pruned = weight.detach()[~mask[name].to(weight.device)]
        if bool((pruned.isfinite() & (pruned != 0)).any()):  # NaN is that of a training that diverged
            raise ValueError(f"{where}: {name!r} is not 0 where its mask prunes; call mask.apply_(weights) first")


def _downloaded(source: str) -> Path:
    """The ticket's own files from the Hub, in the cache of its client: no others, whatever the Hub lists."""
    named = re.fullmatch(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w.-]+))?", source)
    if named is None:
        raise ValueError(f"{source!r} names no ticket on the Hub; expected hf://owner/name or hf://owner/name@revision")
    try:
        hub = importlib.import_module("huggingface_hub")  # an extra: the rest works without
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{source} needs huggingface_hub; pip install 'lth-core[hub]'") from None
    files = ["ticket.json", "mask.safetensors", "rewound.safetensors", "trained.safetensors", "README.md"]
    try:
        return Path(hub.snapshot_download(named[1], revision=named[2], allow_patterns=files))
    except Exception as error:  # of the Hub, of its client's own client, of the disk
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
        raise ValueError(f"{source} cannot be downloaded ({reason}); check its name and the network") from None
