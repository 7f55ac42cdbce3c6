"""How figures look: colours and markers, each with one meaning, and the style of a theme and a width."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import seaborn as sns
from matplotlib import pyplot as plt

Theme = Literal["light", "dark"]
Width = Literal["wide", "narrow"]

PAPERS = {"light": "#ffffff", "dark": "#121212"}
"""The background of each theme. `LOOKS` keep a contrast of 3:1 to it at least."""
INKS = {"light": "#1a1a1a", "dark": "#e6e6e6"}


@dataclass(frozen=True)
class Look:
    """How a kind of network is drawn, on a light page and on a dark one."""

    light: str
    dark: str
    marker: str


LOOKS = {
    "dense": Look(INKS["light"], INKS["dark"], "_"),
    "imp": Look("#0072b2", "#56b4e9", "o"),
    "imp rewound": Look("#c44601", "#ff8c42", "s"),
    "random_pruning": Look("#6b6b6b", "#a6a6a6", "X"),
    "random_reinit": Look("#8e4585", "#d98fd0", "D"),
    "learning_rate_rewinding": Look("#00766c", "#3ec9b8", "^"),
    "fine_tuning": Look("#8a6100", "#e0b341", "v"),
    "magnitude_at_init": Look("#5b6b00", "#b9cc3a", "P"),
    "snip": Look("#b0005b", "#ff7fb2", "h"),
    "grasp": Look("#4f46b8", "#a9a3ff", "d"),
    "synflow": Look("#7a4a21", "#d3a27c", "p"),
}
"""Kind of network -> its look. A kind that is not here is a variant of one that its name begins with."""

DASHES: tuple[Any, ...] = ("", (4, 1.5), (1, 1), (5, 1, 1, 1), (3, 1, 1, 1, 1, 1), (7, 2))
"""Line styles: of a kind's first, second, ... series."""


TICKS = (100, 70, 50, 30, 20, 10, 5, 2, 1)
"""Marks of an axis of weights remaining, in percent."""


def dash_of(number: int) -> Any:
    """The line style of a kind's first (0), second, ... series."""
    return DASHES[min(number, len(DASHES) - 1)]


def look_of(name: str) -> tuple[Look, int]:
    """The look of a series by its name in `Panel.looks`, and which of the kind's series it is."""
    words = name.split()
    number = int(words.pop()) if words[-1].isdigit() else 0
    kind = " ".join(words)
    if kind in LOOKS:
        return LOOKS[kind], number
    known = max((other for other in LOOKS if kind.startswith(other)), key=len, default="dense")
    return LOOKS[known], number + 1


@contextmanager
def style(theme: Theme = "light", width: Width = "wide") -> Iterator[None]:
    """The style of every figure: seaborn's white grid, text that stays text, and the colours of the theme."""
    ink, size = INKS[theme], 9 if width == "wide" else 8
    own: Any = {
        "figure.dpi": 144, "savefig.dpi": 144, "figure.constrained_layout.use": True, "svg.fonttype": "none",
        "svg.hashsalt": "lth", "font.size": size, "axes.labelsize": size, "axes.titlesize": size,
        "xtick.labelsize": size, "ytick.labelsize": size, "legend.fontsize": size, "font.sans-serif": ["DejaVu Sans"],
        "figure.facecolor": PAPERS[theme], "axes.facecolor": PAPERS[theme], "savefig.facecolor": PAPERS[theme],
        "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": ink,
        "grid.color": ink, "grid.alpha": 0.15, "grid.linewidth": 0.6, "axes.linewidth": 0.6,
    }  # fmt: skip
    with plt.rc_context(), sns.axes_style("whitegrid", rc=own):
        plt.rcParams.update(own)
        yield
