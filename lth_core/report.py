"""From records to what a reader sees: the plot shapes that the paper uses, and tables beside its numbers.

Every function takes records as `run` returns them. Lines are means over replicates, bands reach from the smallest to
the largest sample, as in the paper; grey diamonds are the paper's own values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lth_core.config import Config
from lth_core.data import TITLES
from lth_core.records import known, results_folder, store_folder
from lth_core.store import StudyStore

METHOD_NAMES = {
    "dense": "dense network",
    "imp": "IMP",
    "random_pruning": "random pruning",
    "random_reinit": "random reinitialisation",
}
METRIC_NAMES = {
    "test_accuracy": "test accuracy (%)",
    "l2_data_order": "L2 between data orders",
    "l2_pruning": "L2 to the dense network",
    "angle_data_order": "angle between data orders (°)",
    "angle_pruning": "angle to the dense network (°)",
}
NETWORK_NAMES = {"lenet_300_100": "LeNet-300-100"}
PAPER_COLOR = "0.45"


def use_style() -> None:
    """The look of every figure: seaborn's white grid, a palette that colour-blind readers can tell apart."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 110, "savefig.dpi": 110, "figure.constrained_layout.use": True})


def paper_values(**where: Any) -> pd.DataFrame:
    """The paper's numbers (`results/paper_values.csv`), filtered by column: `paper_values(figure="fig3")`."""
    values = pd.read_csv(results_folder() / "paper_values.csv")
    for column, value in where.items():
        values = values[values[column] == value]
    return values.reset_index(drop=True)


def caption(records: pd.DataFrame, config: Config) -> str:
    """What a figure was made from, for its caption: network, data, scale, replicates, device."""
    if not len(records):
        return "Nothing is recorded yet."
    dataset = str(records["dataset"].iloc[0])
    _, made = known(StudyStore(store_folder(), config.updated(dataset=dataset)))
    devices = ", ".join(sorted(set(made["device"]))) or "unknown device"
    replicates = records["replicate"].nunique()
    return (
        f"{NETWORK_NAMES[config.network]} on {TITLES[dataset]}, {config.recipe} recipe, {config.profile} profile "
        f"({config.iterations:,} iterations of batch {config.batch_size}), {_count(replicates, 'replicate')}, "
        f"trained on {devices}. Line: mean; band: smallest to largest sample."
    )


def accuracy_curves(records: pd.DataFrame) -> Figure:
    """Accuracy against the percentage of weights remaining, a line for each method and rewinding iteration (Fig. 5)."""
    curves = _series(records[(records["metric"] == "test_accuracy") & (records["order"] == "0")])
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    _lines(axes, curves, "percent_remaining", "series", list(dict.fromkeys(curves["series"])))
    _percent_axis(axes)
    axes.set_ylabel(METRIC_NAMES["test_accuracy"])
    return figure


def mark_paper(axes: Axes, values: pd.DataFrame, x: Sequence[float]) -> None:
    """Add the paper's values, if any, to a plot at the places `x`, with the range that the paper gives."""
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
    axes.legend(title=None)


def stability_curves(records: pd.DataFrame, *, level: int, metrics: Sequence[str]) -> Figure:
    """A panel for each metric against the rewinding iteration, IMP beside random pruning, at one level (Fig. 4)."""
    rows = records[records["level"] == level]
    rewinds = sorted(rows["rewind"].unique())
    figure, panels = _panels(rows.assign(x=rows["rewind"].map(rewinds.index)), metrics)
    for axes in panels:
        axes.set_xticks(range(len(rewinds)), [f"{k:,}" for k in rewinds])
        axes.set_xlabel("rewinding iteration k")
    return figure


def level_curves(records: pd.DataFrame, *, rewind: int, metrics: Sequence[str]) -> Figure:
    """A panel for each metric against the percentage of weights remaining, IMP beside random pruning, for one k."""
    rows = records[(records["rewind"] == rewind) & (records["level"] > 0)]
    figure, panels = _panels(rows.assign(x=100 * rows["density"]), metrics)
    for axes in panels:
        _percent_axis(axes)
    return figure


def _panels(rows: pd.DataFrame, metrics: Sequence[str]) -> tuple[Figure, Sequence[Axes]]:
    rows = rows[rows["method"].isin(["imp", "random_pruning"]) & rows["order"].str.fullmatch("0|.+-.+")]
    figure, grid = plt.subplots(1, len(metrics), figsize=(4.2 * len(metrics), 3.8), squeeze=False)
    for axes, metric in zip(grid[0], metrics, strict=True):
        lines = rows[rows["metric"] == metric].assign(method=rows["method"].map(METHOD_NAMES))
        _lines(axes, lines, "x", "method", [METHOD_NAMES["imp"], METHOD_NAMES["random_pruning"]])
        axes.set_ylabel(METRIC_NAMES[metric])
        if metric != "test_accuracy":
            axes.set_ylim(bottom=0)
    return figure, list(grid[0])


def _lines(axes: Axes, rows: pd.DataFrame, x: str, hue: str, order: Sequence[str]) -> None:
    """Mean lines with a band from the smallest to the largest sample."""
    look: dict[str, Any] = {
        "hue": hue,
        "style": hue,
        "hue_order": order,
        "style_order": order,
        "markers": True,
        "dashes": False,
    }
    sns.lineplot(rows, x=x, y="value", errorbar=("pi", 100), ax=axes, **look)
    axes.legend(title=None)


def ticket_search(history: pd.DataFrame) -> Figure:
    """A search for tickets as it goes: accuracy of each method, and the density of each layer, level by level.

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


def beside_paper(records: pd.DataFrame, *, level: int, rewind: int, paper: pd.DataFrame) -> pd.DataFrame:
    """A row for each of the paper's values: ours (mean, smallest and largest sample, samples), theirs, and the gap."""
    rows = []
    for value in paper.itertuples():
        at = (0, 0) if value.method == "dense" else (level, rewind)
        ours = records[
            (records["method"] == value.method)
            & (records["metric"] == value.metric)
            & (records["level"] == at[0])
            & (records["rewind"] == at[1])
        ]
        if value.metric == "test_accuracy":
            ours = ours[ours["order"] == "0"]
        sample = ours["value"]
        rows.append(
            {
                "metric": METRIC_NAMES[value.metric],
                "method": METHOD_NAMES[value.method],
                "ours": _mean_and_range(sample),
                "samples": len(sample),
                "paper": f"{value.value:.1f} ({value.low:.1f} to {value.high:.1f})",
                "ours - paper": f"{sample.mean() - value.value:+.1f}" if len(sample) else "",
                "ours / paper": f"{sample.mean() / value.value:.2f}" if len(sample) else "",
            }
        )
    return pd.DataFrame(rows).set_index(["metric", "method"])


def _series(records: pd.DataFrame) -> pd.DataFrame:
    """Name the line that each row belongs to; the dense network is level 0 of every IMP line."""
    rows = records.assign(percent_remaining=100 * records["density"])
    dense = rows[rows["method"] == "dense"]
    rewinds = sorted(rows.loc[rows["method"] != "dense", "rewind"].unique())
    lines = []
    for method in ("imp", "random_pruning", "random_reinit"):
        for rewind in rewinds:
            line = rows[(rows["method"] == method) & (rows["rewind"] == rewind)]
            if len(line):
                origin = [dense] if method == "imp" else []
                name = METHOD_NAMES[method] + (f", k = {rewind:,}" if len(rewinds) > 1 or rewind else "")
                lines.append(pd.concat([*origin, line]).assign(series=name))
    return pd.concat(lines) if lines else dense.assign(series=METHOD_NAMES["dense"])


def _percent_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in (100, 70, 50, 30, 20, 10, 5, 2, 1) if low <= tick <= high]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(high, low)
    axes.set_xlabel("weights remaining (%)")


def _mean_and_range(sample: pd.Series) -> str:
    if not len(sample):
        return "not recorded"
    return f"{sample.mean():.1f} ({sample.min():.1f} to {sample.max():.1f})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
