"""The card of a ticket: a README.md that says what the ticket is, what it scores, and how to load it without us."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Network": ("kind", "network", "method", "build"),
    "Data": ("data", "fingerprint"),
    "Training": ("recipe", "iterations", "seed", "order", "precision", "device", "versions", "digest"),
    "Results": (
        "terms",
        "accuracy",
        "dense_accuracy",
        "control_accuracy",
        "stability_to_pruning",
        "stability_to_data_order",
    ),
    "Make it again": ("command",),
    "Licence": ("licence",),
    "How to cite": ("citation",),
}
"""What a card says about a ticket, by section: keys of `about` in `Ticket.save`. Any other key is told under Other."""

_CODE = {"build": "python", "command": "bash", "citation": "bibtex"}

LOADER = """\
import json, torch
from safetensors import safe_open

def read(file, mask={}):  # the tensors of a file by name, pruned weights as 0.0
    tensors = {}
    with safe_open(file, "pt") as f:
        for name, at in json.loads(f.metadata()["tree"])["dict"]:
            if isinstance(at, dict) and "tensor" in at:
                value, kept = f.get_tensor(at["tensor"]), mask.get(at.get("mask"))
                if "bits" in at:
                    bits = value[:, None] >> torch.arange(7, -1, -1) & 1
                    value = bits.bool().flatten()[: torch.Size(at["bits"]).numel()].view(at["bits"])
                if kept is not None:
                    value = torch.zeros(kept.shape, dtype=value.dtype).masked_scatter(kept, value)
                tensors[name] = value
    return tensors

mask = read("mask.safetensors")
weights = read("rewound.safetensors", mask)  # for model.load_state_dict(weights)
"""
"""What a card tells its reader to run in the ticket's folder. It gives the tensors at the top of the state."""


def card(facts: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The text of README.md, for the facts of ticket.json and what the maker of the ticket says about it."""
    other = [key for key in about if not any(key in keys for keys in SECTIONS.values())]
    sections = {**SECTIONS, **({"Other": tuple(other)} if other else {})}
    head = {"library_name": "lth-core", "tags": ["lottery-ticket-hypothesis", "pruning"]}
    if "licence" in about:
        head["license"] = str(about["licence"]).lower()
    iterations = f" of {about['iterations']}" if "iterations" in about else ""
    remaining = f" and goes on for {facts['remaining']}" if "remaining" in facts else ""
    return "\n".join(
        [
            "---",
            *(f"{key}: {json.dumps(value)}" for key, value in head.items()),
            "---",
            f"# {_line(about.get('kind', 'Lottery ticket'))}: {_line(about.get('network', 'a network'))}, "
            f"level {facts['level']}",
            "",
            f"{facts['density']:.4%} of the weights under the mask are left after {facts['level']} prunings. Training "
            f"starts from the rewound weights at iteration {facts['iteration']}{iterations}{remaining}.",
            "",
            "| layer | density |",
            "|---|---|",
            *(f"| `{name}` | {density:.4%} |" for name, density in facts["density_by_layer"].items()),
            *(line for title, keys in sections.items() for line in _section(title, keys, about)),
            "\n## Load it\n",
            "`lth_core.Ticket.load(folder)` checks every file. Without lth_core, run this in the folder. It leaves out "
            "what is nested, such as an optimiser's moments.\n",
            f"```python\n{LOADER}```",
            "",
        ]
    )


def _section(title: str, keys: tuple[str, ...], about: Mapping[str, Any]) -> list[str]:
    lines = [f"- {_name(key)}: {_line(about[key])}" for key in keys if key in about and key not in _CODE]
    blocks = ["\n".join(lines)] if lines else []
    blocks += [_block(key, str(about[key])) for key in keys if key in about and key in _CODE]
    return [f"\n## {title}\n", "\n\n".join(blocks or ["Not given."])]


def _block(key: str, code: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{_name(key)}:\n\n{fence}{_CODE[key]}\n{code}\n{fence}"


def _name(key: str) -> str:
    return _line(key).replace("_", " ").capitalize()


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_line(item)}" for key, item in value.items())
    return " ".join(str(value).split())
