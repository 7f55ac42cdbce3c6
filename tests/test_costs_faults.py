"""The page of faults, from a made-up campaign."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from lth_study import SettingError
from lth_study.costs.faults import COUNTS, campaign, outcomes
from lth_study.records import results_folder

ROWS = [("SIGKILL", 200, 199, 0, 1, 0, 1), ("damaged: mask", 50, 50, 31, 0, 2, 0)]


@pytest.fixture
def table() -> pd.DataFrame:
    results_folder().mkdir()
    pd.DataFrame(ROWS, columns=["fault", *COUNTS]).to_csv(results_folder() / "faults.csv", index=False)
    return campaign()


def test_kinds_are_chosen_by_a_part_of_their_names(table: pd.DataFrame) -> None:
    assert table["fault"].tolist() == ["SIGKILL", "damaged: mask"]
    assert campaign("mask")["struck"].tolist() == [50]
    with pytest.raises(SettingError, match="kind: no fault has 7 in its name; known: SIGKILL, damaged: mask"):
        campaign(7)  # type: ignore[arg-type] # as a notebook may give it


def test_the_figure_shows_every_count(table: pd.DataFrame) -> None:
    figure = outcomes(table)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [200, 50]
    assert {line.get_label(): list(line.get_xdata()) for line in axes.lines} == {
        "recovered": [199, 50],
        "named": [0, 31],
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SIGKILL", "damaged: mask"]
    plt.close(figure)
