"""Shows figures on a notebook's page, and keeps their files for the book and for anyone's slides.

`publish` does it for a chart of recorded studies, `show` for any other figure. Where the environment variable
`LTH_FIGURES` names a folder, they write into it, for the figure `NAME`:

    NAME.{light,dark}.svg, NAME.{light,dark}.narrow.svg    the picture, for both themes and two widths
    NAME.csv                                               every number that is drawn
    NAME.json                                              caption, alternative text; of studies: scale, devices, cost

The build of the book adds the command that draws the figure, and the verdicts of claims (`book/pages.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from IPython.display import Markdown, display

from lth_study import plan
from lth_study.costs.hours import hours_to_train
from lth_study.extents import Study
from lth_study.files import write_atomic
from lth_study.records import kinds
from lth_study.report import METRIC_NAMES, NETWORK_NAMES, caption
from lth_study.report.chart import Chart, PixelMaps
from lth_study.report.drawing import rendered
from lth_study.report.looks import Theme, Width

WORDS = 60
"""The most words of an alternative text."""


class Picture:
    """A figure on a notebook's page, with its alternative text."""

    def __init__(self, figure: Chart | PixelMaps, alt: str) -> None:
        self.figure, self.alt, self.png = figure, alt, rendered(figure, "png")

    def __repr__(self) -> str:
        return self.alt

    def _repr_png_(self) -> bytes:
        return self.png

    def keep(self, name: str, caption: str, **about: Any) -> None:
        """Write the figure's files, if `LTH_FIGURES` names a folder. `about` goes into the JSON file as it is.

        The book finds the picture on a notebook's page by the checksum in that file.
        """
        if not (place := os.environ.get("LTH_FIGURES")):
            return
        folder, checksum = Path(place), hashlib.sha256(self.png).hexdigest()
        for theme, width in product(get_args(Theme), get_args(Width)):
            file = folder / f"{name}.{theme}{'.narrow' if width == 'narrow' else ''}.svg"
            write_atomic(file, rendered(self.figure, "svg", theme, width))
        numbers = self.figure.numbers().to_csv(index=False, float_format="%.6g")
        write_atomic(folder / f"{name}.csv", numbers.encode())
        story = {"caption": caption, "alt": self.alt, "png": checksum, **about}
        write_atomic(folder / f"{name}.json", json.dumps(story, indent=1).encode())


def show(figure: Chart | PixelMaps, name: str, caption: str, alt: str, **about: Any) -> None:
    """Display a figure with its caption, and keep its files (`Picture.keep`)."""
    picture = Picture(figure, alt)
    display(picture, Markdown(f"*{caption}*"))
    picture.keep(name, caption, **about)


def publish(
    chart: Chart,
    name: str,
    records: pd.DataFrame | Sequence[pd.DataFrame],
    *studies: Study,
    note: str = "",
) -> None:
    """Display a chart of recorded studies with its caption, and keep its files.

    `records` are what the chart is made of, one table for each study, or one of several studies that differ in their
    recipe alone. `note` begins the caption.
    """
    tables = [records] if isinstance(records, pd.DataFrame) else list(records)
    settings = [study.setting for study in studies]
    if len(tables) == 1:
        made = [caption(tables[0], *settings)]
    else:
        made = [caption(table, setting) for table, setting in zip(tables, settings, strict=True)]
    drawn = list(dict.fromkeys(panel.ylabel for panel in chart.panels))
    apart = sum(_between_kinds(table, drawn) for table in tables)
    made += [f"{apart:,} of the distances are between networks of two kinds of processor."] if apart else []
    text = " ".join([f"{chart.title}.", *([note] if note else []), *made, chart.reading])
    about = {
        "axis": chart.axis,
        "drawn": drawn,
        "studies": list(dict.fromkeys(setting.name for setting in settings)),
        "profiles": list(dict.fromkeys(setting.profile for setting in settings)),
        "replicates": max(int(table["replicate"].nunique()) for table in tables),
        "devices": kinds(device for table in tables for device in table["device"].unique()),
        "hours": hours_to_train(*studies),
        "trainings": len({(s.setting.name, t) for s in studies for t in plan.trainings(s)}),
    }
    show(chart, name, text, alternative(chart, NETWORK_NAMES[settings[0].network]), **about)


def _between_kinds(table: pd.DataFrame, drawn: Sequence[str]) -> int:
    """How many of the distances that are drawn have ends that different kinds of processor trained."""
    measured = table["metric"].map(METRIC_NAMES).isin(drawn) & (table["metric"] != "test_accuracy")
    return int((measured & table["device"].str.contains(" and ")).sum())


def alternative(chart: Chart, subject: str) -> str:
    """Text in place of the picture: what stands on its axes, and the values of each series at its last place; at the
    first one on an axis of categories. Points of replicates have no last place."""
    numbers = chart.numbers()
    numbers = numbers[~numbers["series"].str.startswith("paper: ")]
    several = len({panel.ylabel for panel in chart.panels}) > 1
    against = "" if " against " in chart.title else f" against {chart.xlabel}"
    words = [f"{subject}, {chart.title.lower()}{against}."]
    if chart.axis == "number":
        named = (f"{panel.ylabel[0].upper()}{panel.ylabel[1:]}" for panel in chart.panels)
        words += [f"{name} against {chart.xlabel}, a point for each subnetwork." for name in named]
    for panel in chart.panels if chart.axis != "number" else ():
        here = numbers[(numbers["panel"] == panel.title) & (numbers["y"] == panel.ylabel)]
        ends: list[tuple[str, str]] = []
        for series in dict.fromkeys(here["series"]):
            line = here[here["series"] == series]
            first = chart.axis == "category"  # all series have it
            end = line.loc[line["x"].idxmin()] if chart.axis == "percent" else line.iloc[0 if first else -1]
            x = end["x"]
            at = f"{float(f'{x:.3g}'):,g}" if isinstance(x, Real) else str(x)
            elsewhere = f" (at {at})" if ends and at != ends[0][0] else ""
            ends.append((at, f"{series} {end['mean']:.1f}{elsewhere}"))
        if ends:
            metric = panel.ylabel.partition(" (")[0]
            where = ", ".join([panel.title, metric] if panel.title and several else [panel.title or metric])
            words.append(f"{where[0].upper()}{where[1:]} at {ends[0][0]}: {', '.join(text for _, text in ends)}.")
    text = " ".join(words)
    kept = text.split()
    return text if len(kept) <= WORDS else " ".join(kept[: WORDS - 1]) + " ..."
