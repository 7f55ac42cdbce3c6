"""What a figure shows, as tables: a chart of lines, or maps. `charts` makes them from records, `drawing` draws them.

They hold the very numbers that are drawn: `publish` writes them as CSV beside the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lth_core import Mask
from lth_study.report.effects import estimate


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    `table` has a row for each replicate of each point: series, x, replicate, value; `looks` gives each series its
    look (`looks.LOOKS`). Where it has columns low and high too, they are the band of a value that was summarised
    before. `paper` has the paper's values: series, x, value, and low and high where it prints them.
    """

    title: str
    ylabel: str
    table: pd.DataFrame
    looks: Mapping[str, str]
    paper: pd.DataFrame | None = None
    zero: bool = False
    """Whether 0 is part of the axis, with a line through it where values are negative too."""


@dataclass(frozen=True)
class Chart:
    """Panels side by side, with one kind of x axis.

    "percent" is a logarithmic axis from 100 down. "k" and "category" have evenly spaced places for the values of x.
    "number" is a plain axis, with points that no line joins. Where `each` is true, the samples have two humps: every
    replicate has a line, and no mean is drawn.
    """

    title: str
    panels: tuple[Panel, ...]
    axis: Literal["percent", "k", "category", "number"]
    xlabel: str
    each: bool = False
    share_y: bool = False
    log_y: bool = False
    """Whether y holds ratios: a logarithmic axis, to base 2, with a line at 1."""

    @property
    def reading(self) -> str:
        """How to read the marks."""
        replicates = max(panel.table["replicate"].nunique() for panel in self.panels)
        if self.axis == "number":
            marks = "Each point is one replicate of a method at one k."
        elif self.axis == "category":
            marks = "Marker: mean. Bar: its 95% interval over replicates (Student's t)."
            marks = marks if replicates > 1 else "Each marker is one replicate."
        elif self.each or replicates < 2:
            marks = "Each line is one replicate."
        else:
            marks = "Line: mean. Band or bar: its 95% interval over replicates (Student's t). Thin: replicates."
        theirs = [panel.paper for panel in self.panels if panel.paper is not None and len(panel.paper)]
        return marks + (" Without colour, dashed or diamonds: the paper, at its own scale." if theirs else "")

    def numbers(self) -> pd.DataFrame:
        """What is drawn: a row for each point of each series, with mean, 95% interval and every replicate's value.

        The paper's values have the series "paper: ...", and no replicates.
        """
        tables = []
        for panel in self.panels:
            place = {"panel": panel.title, "y": panel.ylabel}
            if self.axis == "number":
                rows = panel.table.assign(mean=panel.table["value"], n=1).drop(columns="value")
            elif "low" in panel.table:
                rows = panel.table.rename(columns={"value": "mean"}).drop(columns="replicate")
            else:
                rows = _summarised(panel.table)
            tables.append(rows.assign(**place))
            if panel.paper is not None:
                theirs = panel.paper.assign(series="paper: " + panel.paper["series"])
                tables.append(theirs.rename(columns={"value": "mean"}).assign(**place))
        table = pd.concat(tables, ignore_index=True)
        first = ["panel", "y", "series", "x", "n", "mean", "low", "high"]
        table = table.reindex(columns=[*first, *(name for name in table if name not in first)])
        return table.astype({"n": "Int64"})


@dataclass(frozen=True)
class PixelMaps:
    """How many weights each pixel keeps in a network's first layer: a map, [height, width], for each mask."""

    maps: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, masks: Mapping[str, Mask], layer: str, side: int) -> PixelMaps:
        """The maps of masks of a first layer with the shape [units, side x side]."""
        return cls({title: mask[layer].sum(0).view(side, side).numpy() for title, mask in masks.items()})

    def numbers(self) -> pd.DataFrame:
        """What is drawn: a row for each pixel of each map."""
        rows = [
            {"map": title, "row": row, "column": column, "weights": int(kept)}
            for title, pixels in self.maps.items()
            for (row, column), kept in np.ndenumerate(pixels)
        ]
        return pd.DataFrame(rows)


def _summarised(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, interval and replicates of every point."""
    wide = table.pivot_table("value", ["series", "x"], "replicate", sort=False)
    rows = wide.add_prefix("replicate_").reset_index()
    rows["n"] = wide.count(axis=1).to_numpy()
    rows["mean"] = wide.mean(axis=1).to_numpy()
    found = [estimate(values.dropna()) for _, values in wide.iterrows()]
    rows["low"], rows["high"] = ([getattr(each, end, math.nan) for each in found] for end in ("low", "high"))
    return rows
