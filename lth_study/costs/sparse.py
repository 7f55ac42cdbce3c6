"""What sparse weights save in time, as `benchmarks/sparse.py` measured it last, for `notebooks/sparse.ipynb`."""

from __future__ import annotations

import pandas as pd

from lth_study.records import results_file
from lth_study.report.chart import Chart, Panel
from lth_study.report.charts import PERCENT

_WORK = ["network", "batch", "threads"]
_DRAWN = ["series", "x", "replicate", "value", "low", "high"]
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


def sparse_chart(measured: pd.DataFrame) -> Chart:
    """The speed of sparse products on one thread against the percentage of weights, a panel for each batch.

    It is compared with the compiled dense network. Lines are medians of the rounds; bands reach from the slowest to the
    fastest. Above 1, sparse weights are faster.
    """
    rows = measured[(measured["threads"] == 1) & (measured["against"] == "dense, compiled")]
    rows = rows.assign(x=100 * rows["density"], replicate=1)
    columns = {"network": "series", "median": "value", "smallest": "low", "largest": "high"}
    looks = {name: f"dense {number}" if number else "dense" for number, name in enumerate(rows["network"].unique())}
    panels = tuple(
        Panel(f"batch {batch}", "times as fast", panel.rename(columns=columns)[_DRAWN], looks)
        for batch, panel in rows.groupby("batch")
    )
    return Chart("Speed of sparse products", panels, "percent", PERCENT, share_y=True, log_y=True)
