"""What the figures of `plots` share: panels, lines with bands, legends, and the axis of weights remaining."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lth_study.report import METHOD_NAMES, METRIC_NAMES, accuracies

PAPER_COLOR = "0.45"


def metric_panels(rows: pd.DataFrame, metrics: Sequence[str], each: bool = False) -> tuple[Figure, Sequence[Axes]]:
    """A panel for each metric, in a row for each recipe. If there are several recipes, titles name them."""
    recipes = list(dict.fromkeys(rows["recipe"]))
    size = (4.2 * len(metrics), 3.8 * len(recipes))
    figure, grid = plt.subplots(len(recipes), len(metrics), figsize=size, squeeze=False)
    for row, recipe in zip(grid, recipes, strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            samples = of_subnetworks(rows[rows["recipe"] == recipe], metric)
            if len(samples):
                draw_lines(axes, samples, "x", "method", SUBNETWORKS, each)
            label_metric(axes, metric, recorded=len(samples) > 0)
            axes.set_title(f"{recipe} recipe" if len(recipes) > 1 else "")
    return figure, list(grid.flat)


SUBNETWORKS = [METHOD_NAMES["imp"], METHOD_NAMES["random_pruning"]]


def of_subnetworks(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The samples of a metric, with methods' full names: an accuracy for each network, a distance for each pair."""
    samples = accuracies(rows) if metric == "test_accuracy" else rows[rows["metric"] == metric]
    samples = samples[samples["method"].isin(["imp", "random_pruning"])]
    return samples.assign(method=samples["method"].map(METHOD_NAMES))


def label_metric(axes: Axes, metric: str, recorded: bool = True) -> None:
    axes.set_ylabel(METRIC_NAMES[metric])
    if not recorded:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=PAPER_COLOR)
    elif metric != "test_accuracy":
        axes.set_ylim(bottom=0)


def draw_lines(axes: Axes, rows: pd.DataFrame, x: str, hue: str, order: Sequence[str], each: bool = False) -> None:
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


def draw_legend(axes: Axes) -> None:
    """Draw the legend in the plot, or beside it in a wider figure if it has more than four lines."""
    if len(axes.get_legend_handles_labels()[0]) <= 4:
        axes.legend(title=None)
        return
    axes.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    axes.figure.figure.set_figwidth(9.6)


def named_lines(records: pd.DataFrame) -> pd.DataFrame:
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


def percent_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in (100, 70, 50, 30, 20, 10, 5, 2, 1) if low <= tick <= high]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(high, low)
    axes.set_xlabel("weights remaining (%)")
