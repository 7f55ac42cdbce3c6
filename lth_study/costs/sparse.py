"""What sparse weights save in time, as `benchmarks/sparse.py` measured it last, for `notebooks/sparse.ipynb`."""

from __future__ import annotations

import itertools

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lth_study.records import results_file
from lth_study.report.drawing import percent_axis
from lth_study.report.looks import style

_WORK = ["network", "batch", "threads"]
_AGAINST = {"dense, eager / sparse": "dense", "dense, compiled / sparse": "dense, compiled"}


def sparse_speed() -> pd.DataFrame:
    """How many times as fast as the dense network a sparse one is, in every setting: median, smallest and largest.

    Rows are those of the device that was measured last. Devices are not mixed.
    """
    measured = pd.read_csv(results_file("sparse.csv"))
    measured = measured[measured["device"] == measured["device"].iloc[-1]]
    return measured.assign(against=measured["measure"].map(_AGAINST))


def break_even(measured: pd.DataFrame) -> pd.DataFrame:
    """The largest measured percentage of weights from which on sparse products are faster; NaN if there is none.

    Faster means in every round, there and at each smaller percentage. A row is a network, a batch and a number of
    threads; a column is the dense network that they are compared with.
    """
    best = {}
    for where, rows in measured.sort_values("density").groupby([*_WORK, "against"], sort=False):
        best[where] = 100 * rows.loc[(rows["smallest"] > 1).cummin(), "density"].max()
    table = pd.Series(best).rename_axis([*_WORK, "against"]).unstack("against")
    return table.reindex(columns=list(_AGAINST.values())).rename_axis(columns=None)


def sparse_curves(measured: pd.DataFrame) -> Figure:
    """The speed of sparse products against the percentage of weights, a panel for each network and batch.

    Lines are medians of the rounds; bands reach from the slowest to the fastest. Above 1, sparse weights are faster.
    """
    rows = measured[measured["threads"] == 1].assign(percent=100 * measured["density"]).sort_values("percent")
    networks, batches = list(dict.fromkeys(measured["network"])), sorted(rows["batch"].unique())
    with style():
        figure, grid = plt.subplots(
            len(batches), len(networks), figsize=(9, 5), sharex=True, sharey=True, squeeze=False
        )
    for (batch, network), axes in zip(itertools.product(batches, networks), grid.flat, strict=True):
        panel = rows[(rows["batch"] == batch) & (rows["network"] == network)]
        for against, marker in zip(_AGAINST.values(), "oX", strict=True):
            line = panel[panel["against"] == against]
            (drawn,) = axes.plot(line["percent"], line["median"], marker=marker, label=f"against {against}")
            axes.fill_between(line["percent"], line["smallest"], line["largest"], color=drawn.get_color(), alpha=0.2)
        axes.axhline(1, color="0.45", linewidth=1, zorder=0)
        axes.set_title(f"{network}, batch {batch}", fontsize="medium")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    percent_axis(axes)
    axes.set_xlabel("")
    figure.supxlabel("weights remaining (%)", fontsize="medium")
    figure.supylabel("times as fast", fontsize="medium")
    grid[0, 0].legend(title=None, loc="lower right", fontsize="small")
    return figure
