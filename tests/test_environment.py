"""Environment variables that are empty count as unset; others that are no numbers are refused by name."""

from __future__ import annotations

import pytest

from lth_study import SettingError, preset
from lth_study.devices import compute_device
from lth_study.environment import whole_number
from lth_study.records import store_folder
from lth_study.runner import train_missing

STUDY = preset("lenet_300_100", profile="smoke").only("stability").updated(levels=0, orders=1, barriers=False)


@pytest.mark.parametrize("value", ["", " ", "0", "1"])
def test_one_process_trains_whatever_says_that_there_is_one(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    monkeypatch.setenv("LTH_DEVICE", "")
    monkeypatch.setenv("LOCAL_RANK", "")
    assert compute_device().type in ("cpu", "cuda")
    train_missing(STUDY, store_folder(), workers=1)
    assert list(store_folder().glob("*/replicate_1/dense/result.json"))


def test_digits_are_a_number_and_anything_else_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert whole_number("LTH_READERS", 7) == 7
    monkeypatch.setenv("LTH_READERS", " 3 ")
    assert whole_number("LTH_READERS", 7) == 3
    for value in ("two", "-1", "1.5"):
        monkeypatch.setenv("LTH_READERS", value)
        with pytest.raises(SettingError, match=rf"LTH_READERS: '{value}' is not a number; expected digits, 0 or more"):
            whole_number("LTH_READERS", 7)
