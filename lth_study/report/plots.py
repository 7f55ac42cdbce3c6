"""The kinds of figures that the paper has, drawn by notebooks from records as `run` returns them.

Lines are means over replicates. Bands reach from the smallest to the largest sample, as in the paper. Grey marks the
paper's own values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lth_study.report import METHOD_NAMES, METRIC_NAMES, accuracies, nothing_recorded, paper_curves, relative_to_dense

PAPER_COLOR = "0.45"


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
    curves = _series(rows)
    names = list(dict.fromkeys(curves["series"]))
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    _lines(axes, curves, "percent_remaining", "series", names, each)
    _percent_axis(axes)
    axes.set_ylabel("test accuracy - dense network's (points)" if relative else METRIC_NAMES["test_accuracy"])
    _legend(axes)
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
        curves = _series(shown(records))
        if not len(curves):
            raise nothing_recorded(records, f"for the panel {title!r}")
        _lines(axes, curves, "percent_remaining", "series", list(dict.fromkeys(curves["series"])))
        _percent_axis(axes)
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
    _legend(axes)


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
    figure, panels = _panels(rows.assign(x=rows["rewind"].map(rewinds.index)), metrics, each)
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
        samples = _of_subnetworks(rows, metric)
        if not len(samples):
            _label(axes, metric, recorded=False)
            continue
        sns.pointplot(
            samples, x="recipe", y="value", hue="method", order=names, hue_order=_SUBNETWORKS,
            errorbar=("pi", 100), linestyle="none", markers=["o", "X"], dodge=0.3, capsize=0.08, ax=axes,
        )  # fmt: skip
        _label(axes, metric)
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
    figure, panels = _panels(rows.assign(x=100 * rows["density"]), metrics)
    for axes in panels:
        _percent_axis(axes)
    return figure


def ticket_search(history: pd.DataFrame) -> Figure:
    """A search for tickets, level by level: the accuracy of each method, and the density of each layer.

    Columns of `history`: percent_remaining, method and test_accuracy, and one column for each layer's density.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8))
    methods = list(dict.fromkeys(history["method"]))
    _lines(left, history.rename(columns={"test_accuracy": "value"}), "percent_remaining", "method", methods)
    left.set_ylabel(METRIC_NAMES["test_accuracy"])
    layers = [name for name in history.columns if name not in ("percent_remaining", "method", "test_accuracy")]
    tickets = history[history["method"] == METHOD_NAMES["imp"]]
    _lines(right, tickets.melt("percent_remaining", layers, "layer"), "percent_remaining", "layer", layers)
    right.set_ylabel("weights remaining in the layer (%)")
    for axes in (left, right):
        _percent_axis(axes)
    return figure


def _panels(rows: pd.DataFrame, metrics: Sequence[str], each: bool = False) -> tuple[Figure, Sequence[Axes]]:
    """A panel for each metric, in a row for each recipe. If there are several recipes, titles name them."""
    recipes = list(dict.fromkeys(rows["recipe"]))
    size = (4.2 * len(metrics), 3.8 * len(recipes))
    figure, grid = plt.subplots(len(recipes), len(metrics), figsize=size, squeeze=False)
    for row, recipe in zip(grid, recipes, strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            samples = _of_subnetworks(rows[rows["recipe"] == recipe], metric)
            if len(samples):
                _lines(axes, samples, "x", "method", _SUBNETWORKS, each)
            _label(axes, metric, recorded=len(samples) > 0)
            axes.set_title(f"{recipe} recipe" if len(recipes) > 1 else "")
    return figure, list(grid.flat)


_SUBNETWORKS = [METHOD_NAMES["imp"], METHOD_NAMES["random_pruning"]]


def _of_subnetworks(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The samples of a metric, with methods' full names: an accuracy for each network, a distance for each pair."""
    samples = accuracies(rows) if metric == "test_accuracy" else rows[rows["metric"] == metric]
    samples = samples[samples["method"].isin(["imp", "random_pruning"])]
    return samples.assign(method=samples["method"].map(METHOD_NAMES))


def _label(axes: Axes, metric: str, recorded: bool = True) -> None:
    axes.set_ylabel(METRIC_NAMES[metric])
    if not recorded:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=PAPER_COLOR)
    elif metric != "test_accuracy":
        axes.set_ylim(bottom=0)


def _lines(axes: Axes, rows: pd.DataFrame, x: str, hue: str, order: Sequence[str], each: bool = False) -> None:
    """Mean lines with a band from the smallest to the largest sample, or a line for `each` replicate."""
    look: dict[str, Any] = {
        "hue": hue,
        "style": hue,
        "hue_order": order,
        "style_order": order,
        "markers": True,
        "dashes": False,
    }
    how: dict[str, Any] = {"units": "replicate", "estimator": None} if each else {"errorbar": ("pi", 100)}
    sns.lineplot(rows, x=x, y="value", ax=axes, **how, **look)
    axes.legend(title=None)


def _legend(axes: Axes) -> None:
    """Draw the legend in the plot, or beside it in a wider figure if it has more than four lines."""
    if len(axes.get_legend_handles_labels()[0]) <= 4:
        axes.legend(title=None)
        return
    axes.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    axes.figure.figure.set_figwidth(9.6)


def _series(records: pd.DataFrame) -> pd.DataFrame:
    """Name each row's line in the column `series`. The dense network is level 0 of every IMP line."""
    rows = records.assign(percent_remaining=100 * records["density"])
    recipes = list(dict.fromkeys(rows["recipe"]))
    rewinds = sorted(rows.loc[rows["method"] != "dense", "rewind"].unique())
    lines = []
    for method, recipe, rewind in itertools.product(("imp", "random_pruning", "random_reinit"), recipes, rewinds):
        line = rows[(rows["method"] == method) & (rows["recipe"] == recipe) & (rows["rewind"] == rewind)]
        if len(line):
            dense = rows[(rows["method"] == "dense") & (rows["recipe"] == recipe)]
            name = METHOD_NAMES[method]
            name += f", {recipe}" if len(recipes) > 1 else ""
            name += f", k = {rewind:,}" if len(rewinds) > 1 or rewind else ""
            lines.append(pd.concat([dense, line] if method == "imp" else [line]).assign(series=name))
    return pd.concat(lines) if lines else rows.assign(series=METHOD_NAMES["dense"])


def _percent_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in (100, 70, 50, 30, 20, 10, 5, 2, 1) if low <= tick <= high]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(high, low)
    axes.set_xlabel("weights remaining (%)")
