"""The page of faults, from a made-up campaign."""

from __future__ import annotations

import pandas as pd
import pytest

from lth_study import SettingError
from lth_study.costs.faults import COUNTS, campaign
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
