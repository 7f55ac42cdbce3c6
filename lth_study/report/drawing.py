"""Draws charts and maps (`chart`) for light and dark pages, wide and narrow, in the colours and markers of `looks`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from lth_study.report.chart import Chart, Panel, PixelMaps
from lth_study.report.effects import estimate
from lth_study.report.looks import INKS, TICKS, Theme, Width, dash_of, look_of, style


def draw(chart: Chart, theme: Theme = "light", width: Width = "wide") -> Figure:
    """Draw a chart. Panels stand side by side, at most three in a row, and in one column if it is narrow."""
    with style(theme, width):
        columns = 1 if width == "narrow" else min(3, len(chart.panels))
        rows = -(-len(chart.panels) // columns)
        entries = _entries(chart, theme)
        size = (3.5, 2.7 * rows + 0.17 * len(entries))
        if width == "wide":
            size = (7.6, (3.5 if columns == 1 else 2.7) * rows)
        figure: Figure
        figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=chart.share_y)
        for number, (axes, panel) in enumerate(zip(grid.flat, chart.panels, strict=False)):
            _draw_panel(axes, chart, panel, theme)
            if chart.share_y and number % columns:
                axes.set_ylabel("")
            if chart.log_y:
                axes.set_yscale("log", base=2)
                axes.yaxis.set_major_formatter("{x:g}")
                axes.axhline(1, color=INKS[theme], linewidth=0.8, zorder=1)
        for axes, panel in zip(grid.flat, chart.panels, strict=False):  # last: a limit ends the search for limits
            if not chart.log_y:
                _limit(axes, chart.panels if chart.share_y else [panel])
            if panel.zero:
                bottom, top = axes.get_ylim()
                axes.set_ylim(min(bottom, 0), max(top, 0))
                axes.axhline(0, color=INKS[theme], linewidth=0.8, zorder=1)
        for axes in list(grid.flat)[len(chart.panels) :]:
            axes.remove()
        if width == "wide" and len(chart.panels) == 1 and chart.axis in ("percent", "k"):
            _label_lines(figure, grid.flat[0], chart, theme)
        else:
            columns = 1 if width == "narrow" else min(3, len(entries))
            place: dict[str, Any] = {"loc": "outside upper center", "ncols": columns, "frameon": False}
            figure.legend(list(entries.values()), list(entries), **place)
        plt.close(figure)
    return figure


def rendered(
    figure: Chart | PixelMaps, kind: Literal["svg", "png"], theme: Theme = "light", width: Width = "wide"
) -> bytes:
    """A figure as a file: the same bytes every time."""
    file = io.BytesIO()
    with style(theme, width):
        how: dict[str, Any] = {"metadata": {"Date": None}, "facecolor": "none"} if kind == "svg" else {}
        drawn = draw_maps(figure, theme, width) if isinstance(figure, PixelMaps) else draw(figure, theme, width)
        drawn.savefig(file, format=kind, **how)
    return file.getvalue()


def _limit(axes: Axes, panels: Sequence[Panel]) -> None:
    """End the axis where wide intervals of few replicates would press all values together."""
    values = pd.concat(
        [table["value"] for panel in panels for table in (panel.table, panel.paper) if table is not None]
    )
    low, high = values.min(), values.max()
    bottom, top = axes.get_ylim()
    if high > low:
        axes.set_ylim(max(bottom, 1.5 * low - high / 2), min(top, 1.5 * high - low / 2))


def draw_maps(shown: PixelMaps, theme: Theme = "light", width: Width = "wide") -> Figure:
    """Draw maps beside each other, with one scale of colours."""
    count, side = len(shown.maps), 3 if width == "wide" else 1.5
    with style(theme, width):
        figure, grid = plt.subplots(1, count, figsize=(side * count + 0.8, side), squeeze=False)
        top = max(int(kept.max()) for kept in shown.maps.values())
        for axes, (title, kept) in zip(grid[0], shown.maps.items(), strict=True):
            drawn = axes.imshow(kept, vmin=0, vmax=top, cmap="cividis")
            axes.set(title=title, xticks=[], yticks=[])
            axes.grid(False)
        figure.colorbar(drawn, ax=grid[0], label="weights left at the pixel")
        plt.close(figure)
    return figure


def _draw_panel(axes: Axes, chart: Chart, panel: Panel, theme: Theme) -> None:
    table, ink = panel.table, INKS[theme]
    axes.set(title=panel.title, ylabel=panel.ylabel, xlabel=chart.xlabel)
    places = _places(chart, panel)
    if not len(table):
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=ink)
    else:
        _draw_series(axes, chart, _placed(table, chart, panel), panel, theme)
    if panel.paper is not None and len(panel.paper):
        _draw_paper(axes, _placed(panel.paper, chart, panel), theme)
    if chart.axis == "percent":
        percent_axis(axes)
    elif places:
        names = [f"{x:,}" if isinstance(x, int) else str(x) for x in places]
        axes.set_xticks(list(places.values()), names)
        axes.set_xlim(-0.4, len(places) - 0.6)
        if sum(map(len, names)) > 60 / min(3, len(chart.panels)):  # characters that fit side by side under a panel
            axes.tick_params("x", labelrotation=45)


def _places(chart: Chart, panel: Panel) -> dict[Any, float]:
    """Evenly spaced places for the values of x; none on an axis of numbers."""
    if chart.axis not in ("k", "category"):
        return {}
    values = list(dict.fromkeys(panel.table["x"]))
    return {value: float(place) for place, value in enumerate(sorted(values) if chart.axis == "k" else values)}


def _placed(table: pd.DataFrame, chart: Chart, panel: Panel) -> pd.DataFrame:
    """A table with places for x. On an axis of categories the series stand beside each other at every place."""
    places, names = _places(chart, panel), list(panel.looks)
    x = [places.get(x, x) for x in table["x"]]
    if chart.axis == "category":
        apart = min(0.3, 0.8 / len(names))
        beside = {name: apart * (number - (len(names) - 1) / 2) for number, name in enumerate(names)}
        x = [place + beside.get(name, 0) for place, name in zip(x, table["series"], strict=True)]
    return table.assign(x=x)


def _draw_series(axes: Axes, chart: Chart, table: pd.DataFrame, panel: Panel, theme: Theme) -> None:
    names = list(panel.looks)
    found = {name: look_of(panel.looks[name]) for name in names}
    look: dict[str, Any] = {
        "hue": "series", "hue_order": names, "palette": {n: getattr(k, theme) for n, (k, _) in found.items()},
        "style": "series", "style_order": names, "markers": {n: k.marker for n, (k, _) in found.items()},
        "x": "x", "y": "value", "ax": axes, "legend": False,
    }  # fmt: skip
    if chart.axis == "number":
        sns.scatterplot(table, s=28, **look)
        return
    if chart.axis == "category":  # no line leads from place to place
        bars: dict[str, Any] = {"err_style": "bars", "err_kws": {"capsize": 3}, "dashes": False, "linestyle": "none"}
        sns.lineplot(table, errorbar=_interval, **bars, **look)
        return
    look["dashes"] = {n: dash_of(number) for n, (_, number) in found.items()}
    if "low" in table:
        for name, line in table.groupby("series", sort=False):
            axes.fill_between(
                line["x"], line["low"], line["high"], color=getattr(found[str(name)][0], theme), alpha=0.18
            )
    if chart.each or table["replicate"].nunique() == 1:
        sns.lineplot(table, units="replicate", estimator=None, linewidth=1.2, markersize=4, **look)
        return
    thin = look | {"markers": False}
    sns.lineplot(table, units="replicate", estimator=None, linewidth=0.5, alpha=0.45, zorder=2, **thin)
    sns.lineplot(table, errorbar=_interval, err_kws={"alpha": 0.18}, linewidth=1.6, markersize=5, zorder=3, **look)


def _interval(values: pd.Series) -> tuple[float, float]:
    """The 95% interval that verdicts use: Student's t over replicates."""
    found = estimate(pd.Series(values))
    return (found.low, found.high) if found else (float("nan"), float("nan"))


def _draw_paper(axes: Axes, values: pd.DataFrame, theme: Theme) -> None:
    """The paper's curves dashed, or its values at single places as diamonds with their ranges."""
    ink = INKS[theme]
    if "low" in values:
        spread = [(values["value"] - values["low"]).fillna(0), (values["high"] - values["value"]).fillna(0)]
        axes.errorbar(values["x"], values["value"], spread, fmt="D", ms=4.5, mfc="none", color=ink, capsize=3, zorder=5)
        return
    for number, (_, curve) in enumerate(values.groupby("series", sort=False)):
        axes.plot(curve["x"], curve["value"], dashes=dash_of(number + 1), color=ink, linewidth=1.1, zorder=2)


def _entries(chart: Chart, theme: Theme) -> dict[str, Line2D]:
    """An entry of the legend for each series, and for the paper's."""
    entries: dict[str, Line2D] = {}
    for panel in chart.panels:
        for name, own in panel.looks.items():
            look, number = look_of(own)
            joined = chart.axis in ("percent", "k")
            entries[name] = Line2D(
                [], [], color=getattr(look, theme), marker=look.marker, markersize=5,
                dashes=dash_of(number) or (None, None), linewidth=1.6 if joined else 0,
            )  # fmt: skip
        if panel.paper is not None and len(panel.paper):
            if "low" in panel.paper:
                entries["paper"] = Line2D(
                    [], [], color=INKS[theme], marker="D", mfc="none", linewidth=0, markersize=4.5
                )
                continue
            for number, name in enumerate(dict.fromkeys(panel.paper["series"])):
                entries[f"paper: {name}"] = Line2D([], [], color=INKS[theme], dashes=dash_of(number + 1), linewidth=1.1)
    return entries


def _label_lines(figure: Figure, axes: Axes, chart: Chart, theme: Theme) -> None:
    """Name every line at its right end, in its colour."""
    (panel,) = chart.panels
    numbers = chart.numbers()
    figure.canvas.draw()
    places, ends = _places(chart, panel), []
    for name in dict.fromkeys(numbers["series"]):
        line = numbers[numbers["series"] == name]
        last = line.loc[line["x"].idxmin() if chart.axis == "percent" else line["x"].idxmax()]
        own = panel.looks.get(name)
        color = getattr(look_of(own)[0], theme) if own else INKS[theme]
        x = places.get(last["x"], last["x"])
        ends.append((axes.transData.transform((x, last["mean"]))[1], float(last["mean"]), x, name, color))
    height = 1.25 * plt.rcParams["font.size"] * figure.dpi / 72
    for (_, y, x, name, color), at in zip(ends, _apart([end[0] for end in ends], height), strict=True):
        beside = axes.transAxes.inverted().transform((0, at))[1]
        axes.annotate(
            name, (x, y), (1.02, beside), textcoords="axes fraction", color=color, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0},
        )  # fmt: skip


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Heights moved as little as it takes to be `least` apart, in the same order."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    groups: list[tuple[list[int], float]] = []  # places that touch, and the middle of their group
    for place in order:
        groups.append(([place], heights[place]))
        while len(groups) > 1:
            (below, low), (above, high) = groups[-2:]
            if high - low >= least * (len(below) + len(above)) / 2:
                break
            both = below + above
            groups[-2:] = [(both, sum(heights[each] for each in both) / len(both))]
    moved = [0.0] * len(heights)
    for places, middle in groups:
        for number, place in enumerate(places):
            moved[place] = middle + least * (number - (len(places) - 1) / 2)
    return moved


def percent_axis(axes: Axes) -> None:
    """A logarithmic axis from 100% down."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(high, low)
