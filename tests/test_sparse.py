"""What sparse products save in time, from made-up measurements."""

from __future__ import annotations

import pandas as pd
import pytest

from lth_study.costs.sparse import break_even, sparse_chart, sparse_speed
from lth_study.records import results_folder

SLOWEST = {0.5: (0.7, 1.2), 0.2: (1.1, 1.3), 0.1: (0.9, 1.6), 0.05: (2.0, 3.0)}
"""Density -> the slowest round against the dense network as it is and compiled. At 10% the first is not faster."""


@pytest.fixture
def measured() -> pd.DataFrame:
    rows = [
        {"network": "layer", "batch": batch, "threads": 1, "density": density, "measure": f"dense, {against} / sparse",
         "unit": "ratio", "median": slowest + 0.2, "smallest": slowest / batch, "largest": slowest + 0.5}
        for batch in (1, 256)
        for density, pair in SLOWEST.items()
        for against, slowest in zip(("eager", "compiled"), pair, strict=True)
    ]  # fmt: skip
    results_folder().mkdir()
    table = pd.DataFrame(rows)
    devices = [table.assign(device="another", smallest=9.0), table.assign(device="the last")]
    pd.concat(devices).to_csv(results_folder() / "sparse.csv", index=False)
    return sparse_speed()


def test_sparse_products_pay_from_the_largest_share_below_which_they_always_do(measured: pd.DataFrame) -> None:
    table = break_even(measured)
    assert table.loc[("layer", 1, 1)].to_dict() == {"dense": 5, "dense, compiled": 50}
    assert table.loc[("layer", 256, 1)].isna().all()  # the slowest rounds are slower than the dense network everywhere


def test_the_chart_shows_the_rounds_of_one_thread_beside_the_compiled_network(measured: pd.DataFrame) -> None:
    two_threads = measured.assign(threads=2, median=99.0)
    chart = sparse_chart(pd.concat([measured, two_threads], ignore_index=True))
    assert [panel.title for panel in chart.panels] == ["batch 1", "batch 256"]
    numbers = chart.numbers().set_index(["panel", "x"])[["mean", "low", "high"]]
    for batch in (1, 256):
        for density, (_, slowest) in SLOWEST.items():
            row = numbers.loc[(f"batch {batch}", 100 * density)]
            assert row.tolist() == pytest.approx([slowest + 0.2, slowest / batch, slowest + 0.5])
