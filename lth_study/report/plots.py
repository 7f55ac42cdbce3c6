"""The kinds of figures that the paper has, drawn by notebooks from records as `run` returns them.

Lines are means over replicates. Bands reach from the smallest to the largest sample, as in the paper. Grey marks the
paper's own values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lth_core import Mask
from lth_study.report import METHOD_NAMES, METRIC_NAMES, accuracies, nothing_recorded, paper_curves, relative_to_dense
from lth_study.report.axes import (
    PAPER_COLOR,
    SUBNETWORKS,
    draw_legend,
    draw_lines,
    label_metric,
    metric_panels,
    named_lines,
    of_subnetworks,
    percent_axis,
)


def use_style() -> None:
    """Set the style of every figure: seaborn's white grid and its palette for colour-blind readers."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 110, "savefig.dpi": 110, "figure.constrained_layout.use": True})


def accuracy_curves(records: pd.DataFrame, *, relative: bool = False, each: bool = False) -> Figure:
    """Accuracy against the percentage of weights remaining (Figures 1 and 5).

    A line for each recipe, method and rewinding iteration. With `relative`, accuracies are differences to the dense
    network's of the same recipe and replicate, so that networks of different sizes can be compared. With `each`, every
    replicate has a line. Use it for samples with two humps: no network has their mean accuracy.
    """
    rows = relative_to_dense(records) if relative else accuracies(records)
    if not len(rows):
        raise nothing_recorded(records, "of the accuracy")
    curves = named_lines(rows)
    names = list(dict.fromkeys(curves["series"]))
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    draw_lines(axes, curves, "percent_remaining", "series", names, each)
    percent_axis(axes)
    axes.set_ylabel("test accuracy - dense network's (points)" if relative else METRIC_NAMES["test_accuracy"])
    draw_legend(axes)
    return figure


def accuracy_panels(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy less the dense network's against the percentage of weights remaining.

    `panels` maps titles to records; each panel has its own axis and a line for each method and rewinding iteration.
    """
    figure = _panel_each(panels, relative_to_dense)
    for axes in figure.axes:
        axes.axhline(0, color="0.6", linewidth=1, zorder=0)
    figure.axes[0].set_ylabel("test accuracy - dense network's (points)")
    return figure


def distance_panels(panels: Mapping[str, pd.DataFrame], metric: str) -> Figure:
    """`accuracy_panels` for a distance to the dense network. Angles share one scale: they compare across panels."""
    figure = _panel_each(panels, lambda records: records[records["metric"] == metric])
    top = max(axes.get_ylim()[1] for axes in figure.axes) if metric.startswith("angle") else None
    for axes in figure.axes:
        axes.set_ylim(0, top)
    figure.axes[0].set_ylabel(METRIC_NAMES[metric])
    return figure


def _panel_each(panels: Mapping[str, pd.DataFrame], shown: Callable[[pd.DataFrame], pd.DataFrame]) -> Figure:
    """A panel for each table of records, with the rows that `shown` returns."""
    figure, grid = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.8), squeeze=False)
    for axes, (title, records) in zip(grid[0], panels.items(), strict=True):
        curves = named_lines(shown(records))
        if not len(curves):
            raise nothing_recorded(records, f"for the panel {title!r}")
        draw_lines(axes, curves, "percent_remaining", "series", list(dict.fromkeys(curves["series"])))
        percent_axis(axes)
        axes.set(title=title, ylabel="")
    return figure


def draw_paper(axes: Axes, values: pd.DataFrame) -> None:
    """Add the paper's accuracy curves in grey, as differences to its dense network (see `report.paper_curves`).

    `values` come from `report.paper_values`. Each method and rewinding iteration has a line.
    """
    curves = paper_curves(values)
    for (name, curve), style in zip(curves.groupby("curve"), ("-", "--", ":", "-."), strict=False):
        look: dict[str, Any] = {"color": PAPER_COLOR, "linewidth": 1.2, "label": f"paper: {name}", "zorder": 1}
        axes.plot(curve["percent_remaining"], curve["value"], style, **look)
    draw_legend(axes)


def mark_paper(axes: Axes, values: pd.DataFrame, x: Sequence[float]) -> None:
    """Add the paper's values, if any, to a plot at the positions `x`, with the paper's ranges."""
    if not len(values):
        return
    spread = [(values["value"] - values["low"]).fillna(0), (values["high"] - values["value"]).fillna(0)]
    look: dict[str, Any] = {
        "fmt": "D",
        "markersize": 6,
        "color": PAPER_COLOR,
        "capsize": 3,
        "zorder": 5,
        "label": "paper",
    }
    axes.errorbar(x, values["value"], yerr=spread, **look)
    bottom, top = axes.get_ylim()
    if values["value"].max() > top:
        axes.set_ylim(top=bottom + 1.05 * (values["value"].max() - bottom))
    axes.legend(title=None)


def stability_curves(records: pd.DataFrame, *, level: int, metrics: Sequence[str], each: bool = False) -> Figure:
    """A panel for each metric against the rewinding iteration, IMP beside random pruning, at one level (Fig. 4).

    Each recipe has its own row of panels and axes. With `each`, every replicate has a line.
    """
    rows = records[records["level"] == level]
    if not len(rows):
        raise nothing_recorded(records, f"at level {level}")
    rewinds = sorted(rows["rewind"].unique())
    figure, panels = metric_panels(rows.assign(x=rows["rewind"].map(rewinds.index)), metrics, each)
    for axes in panels:
        axes.set_xticks(range(len(rewinds)), [f"{k:,}" for k in rewinds])
        axes.set_xlabel("rewinding iteration k")
        if len(rewinds) > 6:
            axes.tick_params("x", labelrotation=45)
    return figure


def stability_against_accuracy(records: pd.DataFrame, *, level: int, metric: str) -> Figure:
    """Accuracy against stability at one level. A point is one method, replicate and rewinding iteration."""
    rows = records[(records["level"] == level) & records["method"].isin(["imp", "random_pruning"])]
    points = rows.pivot_table(index=["method", "rewind", "replicate"], columns="metric", values="value")
    points = points.reindex(columns=[metric, "test_accuracy"]).dropna().reset_index()
    points["method"] = points["method"].map(METHOD_NAMES)
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    order = [f"{k:,}" for k in sorted(points["rewind"].unique())]
    sns.scatterplot(
        points.assign(k=points["rewind"].map("{:,}".format)), x=metric, y="test_accuracy", hue="k", style="method",
        hue_order=order, palette="viridis", s=60, ax=axes,
    )  # fmt: skip
    axes.set_xlabel(METRIC_NAMES[metric])
    axes.set_ylabel(METRIC_NAMES["test_accuracy"])
    axes.legend(title=None, fontsize="small")
    return figure


def side_by_side(
    records: pd.DataFrame,
    *,
    level: int,
    rewind: int,
    metrics: Sequence[str],
    paper: pd.DataFrame | None = None,
) -> Figure:
    """A panel for each metric with the recipes side by side, IMP beside random pruning, at one level and k (Fig. 3).

    `paper` are values of `report.paper_values`, drawn in grey beside ours.
    """
    rows = records[(records["level"] == level) & (records["rewind"] == rewind)]
    if not len(rows):
        raise nothing_recorded(records, f"at level {level}, rewound to {rewind}")
    names = list(dict.fromkeys(rows["recipe"]))
    figure, grid = plt.subplots(1, len(metrics), figsize=(4.2 * len(metrics), 3.8), squeeze=False)
    for axes, metric in zip(grid[0], metrics, strict=True):
        samples = of_subnetworks(rows, metric)
        if not len(samples):
            label_metric(axes, metric, recorded=False)
            continue
        sns.pointplot(
            samples, x="recipe", y="value", hue="method", order=names, hue_order=SUBNETWORKS,
            errorbar=("pi", 100), linestyle="none", markers=["o", "X"], dodge=0.3, capsize=0.08, ax=axes,
        )  # fmt: skip
        label_metric(axes, metric)
        axes.set_xlabel("recipe")
        if paper is not None:
            theirs = paper[(paper["metric"] == metric) & paper["recipe"].isin(names)]
            beside = theirs["method"].map({"imp": -0.25, "random_pruning": 0.25})
            mark_paper(axes, theirs, theirs["recipe"].map(names.index) + beside)
        sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1), ncols=3, title=None, frameon=False)
    return figure


def level_curves(records: pd.DataFrame, *, rewind: int, metrics: Sequence[str]) -> Figure:
    """A panel for each metric against the percentage of weights remaining, IMP beside random pruning, for one k."""
    rows = records[(records["rewind"] == rewind) & (records["level"] > 0)]
    if not len(rows):
        raise nothing_recorded(records, f"of subnetworks rewound to {rewind}")
    figure, panels = metric_panels(rows.assign(x=100 * rows["density"]), metrics)
    for axes in panels:
        percent_axis(axes)
    return figure


def ticket_search(history: pd.DataFrame) -> Figure:
    """A search for tickets, level by level: the accuracy of each method, and the density of each layer.

    Columns of `history`: percent_remaining, method and test_accuracy, and one column for each layer's density.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8))
    methods = list(dict.fromkeys(history["method"]))
    draw_lines(left, history.rename(columns={"test_accuracy": "value"}), "percent_remaining", "method", methods)
    left.set_ylabel(METRIC_NAMES["test_accuracy"])
    layers = [name for name in history.columns if name not in ("percent_remaining", "method", "test_accuracy")]
    tickets = history[history["method"] == METHOD_NAMES["imp"]]
    draw_lines(right, tickets.melt("percent_remaining", layers, "layer"), "percent_remaining", "layer", layers)
    right.set_ylabel("weights remaining in the layer (%)")
    for axes in (left, right):
        percent_axis(axes)
    return figure


def pixel_maps(masks: Mapping[str, Mask], layer: str, side: int) -> Figure:
    """How many weights each pixel keeps in a network's first layer, [units, side x side]: a map for each mask."""
    figure, grid = plt.subplots(1, len(masks), figsize=(3.2 * len(masks) + 0.8, 3.2), squeeze=False)
    maps = {title: mask[layer].sum(0).view(side, side).numpy() for title, mask in masks.items()}
    top = max(int(kept.max()) for kept in maps.values())
    for axes, (title, kept) in zip(grid[0], maps.items(), strict=True):
        drawn = axes.imshow(kept, vmin=0, vmax=top, cmap="viridis")
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(False)
    figure.colorbar(drawn, ax=grid[0], label="weights left at the pixel")
    return figure
