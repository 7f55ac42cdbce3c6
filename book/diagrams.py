"""Draws the diagrams that show records: the angles between ends of trainings, and where LeNet's masks keep weights.

They are pictures inside the page (SVG), and take the colours of its theme. `write` puts them into
`book/_static/diagrams`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lth_core import Ticket
from lth_study import preset, records
from lth_study.data import title
from lth_study.report import NETWORK_NAMES
from lth_study.tickets import committed

FOLDER = Path("book/_static/diagrams")
LENGTH = 190
"""Of a drawn training's end from the origin."""
ORIGIN = (20, 290)
LINE = 17
"""The least height of a line of text."""
NOUNS = {"imp": "ticket", "random_pruning": "random"}


@dataclass(frozen=True)
class Fan:
    """Ends of trainings as rays, each at its angle to one end: recorded means over replicates."""

    question: str
    network: str
    profile: str
    settings: Mapping[str, Any]
    metric: str
    level: int
    reference: str
    rays: Sequence[tuple[str, int]]

    def angles(self) -> dict[tuple[str, int], float]:
        """Method and k -> the recorded angle in degrees."""
        table = records.traced(preset(self.network, "standard", self.profile).setting.updated(**self.settings))
        table = table[(table["metric"] == self.metric) & (table["level"] == self.level)]
        each = table.groupby(["method", "rewind", "replicate"])["value"].mean()
        means = each.groupby(["method", "rewind"]).mean()
        return {(method, k): float(means[method, k]) for method, k in self.rays}


FANS = {
    "pruning": Fan(
        "Stable to pruning?", "resnet20", "paper", {"dataset": "cifar10_jpeg", "precision": "bfloat16"},
        "angle_pruning", 6, "the whole network", [("imp", 500), ("imp", 0)],
    ),
    "data_order": Fan(
        "Stable to data order?", "vgg19", "laptop", {"dataset": "cifar10_jpeg"},
        "angle_data_order", 12, "another data order",
        [("imp", 100), ("imp", 0), ("random_pruning", 100), ("random_pruning", 0)],
    ),
}  # fmt: skip
MASKS = {
    "ticket at initialisation": "imp_rewind_0_level_10_replicate_1",
    "ticket rewound to 5,000": "imp_rewind_5000_level_10_replicate_1",
    "random subnetwork": "random_pruning_rewind_0_level_10_replicate_1",
}
"""What a picture shows -> the folder of a committed ticket of LeNet."""
SIDE = 28
SHADES = 12


def write() -> None:
    """Write `valleys.html` and `masks.html`, made from the committed records and tickets."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "valleys.html").write_text(valleys())
    (FOLDER / "masks.html").write_text(masks())


def valleys() -> str:
    """Where trainings end, as directions from the origin of weight space."""
    fans = "\n".join(_drawn(fan, fan.angles()) for fan in FANS.values())
    return (
        f'<figure class="steps side-by-side">\n{fans}\n<figcaption>Where trainings end, as directions of the weights '
        "that survive. Every angle is drawn as it was measured, in the mean over replicates. The valleys around the "
        "ends are a sketch.</figcaption>\n</figure>\n"
    )


def _drawn(fan: Fan, angles: Mapping[tuple[str, int], float]) -> str:
    names = {(method, k): f"{'rewound' if k else 'reset'} {NOUNS[method]}" for method, k in angles}
    setting = preset(fan.network, "standard", fan.profile).setting.updated(**fan.settings)
    scale = "the paper's scale" if fan.profile == "paper" else f"{fan.profile}'s scale"
    about = (
        f"{NETWORK_NAMES[fan.network]} on {title(setting.dataset)}",
        f"{scale}, rewound to {max(k for _, k in angles)}",
    )
    seen = ", ".join(f"{names[ray]} {angle:.0f}°" for ray, angle in angles.items())
    text = f"{fan.question} {', '.join(about)}. Angles between the end of training and that of {fan.reference}: {seen}."
    kinds = {(method, k): "random" if method != "imp" else "tickets" if k else "reset" for method, k in angles}
    shapes, height = [_ray(0, "whole", fan.reference, ORIGIN[1] + 22)], ORIGIN[1]
    for ray, angle in sorted(angles.items(), key=lambda pair: pair[1]):
        height = min(height - LINE, ORIGIN[1] - LENGTH * math.sin(math.radians(angle)))
        shapes.append(_ray(angle, kinds[ray] + ("" if ray[1] else " dotted"), f"{names[ray]}: {angle:.0f}°", height))
    return (
        f'<svg viewBox="0 0 370 320" role="img" aria-label="{html.escape(text, quote=True)}" '
        'xmlns="http://www.w3.org/2000/svg">\n'
        f'<text class="head" x="10" y="18">{fan.question}</text>'
        f'<text x="10" y="37">{about[0]}</text><text x="10" y="54">{about[1]}</text>\n'
        + "\n".join(shapes)
        + f'\n<circle class="start" cx="{ORIGIN[0]}" cy="{ORIGIN[1]}" r="3"/>\n</svg>'
    )


def _ray(angle: float, kind: str, label: str, height: float) -> str:
    """A ray from the origin at an angle in degrees, with a valley around its end and its name at this height."""
    x = ORIGIN[0] + LENGTH * math.cos(math.radians(angle))
    y = ORIGIN[1] - LENGTH * math.sin(math.radians(angle))
    turn = f'transform="rotate({-angle:.2f} {x:.2f} {y:.2f})"'
    return (
        f'<g class="ray {kind}">'
        f'<ellipse cx="{x:.2f}" cy="{y:.2f}" rx="26" ry="14" {turn}/>'
        f'<line x1="{ORIGIN[0]}" y1="{ORIGIN[1]}" x2="{x:.4f}" y2="{y:.4f}"/>'
        f'<circle cx="{x:.2f}" cy="{y:.2f}" r="5"/>'
        f'<text x="{x + 20:.1f}" y="{height + 3:.1f}">{label}</text></g>'
    )


def masks() -> str:
    """How many weights each pixel keeps in LeNet's first layer."""
    folder = committed() / preset("lenet_300_100").setting.name
    kept = {name: Ticket.load(folder / file).mask["fc1.weight"] for name, file in MASKS.items()}
    maps = {name: layer.sum(0).view(SIDE, SIDE) for name, layer in kept.items()}
    units, top = len(next(iter(kept.values()))), max(int(each.max()) for each in maps.values())
    pictures = "\n".join(_map(name, each, top) for name, each in maps.items())
    left = 100 * float(next(iter(kept.values())).float().mean())
    return (
        f'<figure class="steps side-by-side masks">\n{pictures}\n<figcaption>Masks of LeNet-300-100\'s first layer, '
        f"each with {left:.0f}% of its weights. A square is a pixel of the image. The more it stands out, the more "
        f"of its {units} weights are kept: {top} at most.</figcaption>\n</figure>\n"
    )


def _map(name: str, kept: torch.Tensor, top: int) -> str:
    """A mask as a picture: a path for each of a few shades."""
    shades = (kept.double() / top * SHADES).ceil().int().tolist()
    cells: dict[int, list[str]] = {}
    for y, row in enumerate(shades):
        for x, shade in enumerate(row):
            cells.setdefault(shade, []).append(f"M{x} {y}h1v1h-1z")
    paths = "".join(
        f'<path fill-opacity="{shade / SHADES:.2f}" d="{"".join(squares)}"/>'
        for shade, squares in sorted(cells.items())
        if shade
    )
    middle, corner = slice(7, -7), [*range(4), *range(-4, 0)]
    inside = float(kept[middle, middle].double().mean())
    outside = float(kept[corner][:, corner].double().mean())
    text = f"{name}: a pixel in the middle keeps {inside:.0f} weights on average, one in a corner {outside:.0f}"
    return (
        f'<svg viewBox="-0.2 -0.2 {SIDE + 0.4} {SIDE + 3.4}" role="img" aria-label="{html.escape(text, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg"><rect width="{SIDE}" height="{SIDE}"/>{paths}'
        f'<text x="0" y="{SIDE + 2.2}">{name}</text></svg>'
    )
