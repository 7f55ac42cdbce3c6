"""What ImageNet's networks need, from measurements that are made up, counted by hand."""

import json

import pandas as pd
import pytest

from lth_study import preset, records
from lth_study.costs.imagenet import costs_of_imagenet


@pytest.fixture
def measured() -> None:
    folder = records.results_folder()
    folder.mkdir()
    rows = [
        {"measure": "ResNet-50, ours (images/s)", "median": 2.0},
        {"measure": "SqueezeNet 1.0, ours (images/s)", "median": 8.0},
        {"measure": "matrix product (GFLOP/s)", "median": 100.0},
    ]
    table = pd.DataFrame(rows).assign(device="a CPU", unit="", smallest=0, largest=0, measured="2026-11-25")
    table.to_csv(folder / "benchmark.csv", index=False)
    passed = [{"way": way, "relative_difference": 0.1, "tolerance": 0.3} for way in ("loop", "graph")]
    about = {"network": "resnet20", "profile": "paper", "precision": "bfloat16", "device": "a GPU"}
    record = about | {"checks": passed}
    smaller = record | {"profile": "smoke", "device": "another", "measured": [{"way": "graph", "images/s": 9e9}]}
    slow = record | {"device": "another CPU", "measured": [{"way": "loop", "images/s": 500.0}]}
    fast = [{"way": "loop", "images/s": 5e4}, {"way": "graph", "images/s": 1e5}]
    unchecked = about | {"device": "an unchecked GPU", "measured": fast}
    gpu = [record | {"measured": fast}, smaller, slow, unchecked]
    (folder / "benchmark_gpu.json").write_text(json.dumps(gpu))


def test_hours_are_images_by_the_speed_of_the_same_network(measured: None):
    table = costs_of_imagenet()
    assert table["hours, one core of a CPU"].to_dict() == pytest.approx(
        {
            "ResNet-50": 3.948797952e9 / 2 / 3600,
            "Inception-v3": float("nan"),
            "SqueezeNet 1.0": 6.42708e6 * 1024 / 8 / 3600,
        },
        nan_ok=True,
    )


def test_a_gpus_hours_are_those_of_resnet_20s_rate_of_arithmetic(measured: None):
    table = costs_of_imagenet()
    hours = table["hours, a GPU, bfloat16 (estimate)"]
    # ResNet-20 has 40.8 million multiplications an image forward (He et al. 2016: 0.041 billion), ResNet-50 4.1 billion
    assert hours["ResNet-50"] == pytest.approx(3.948797952e9 / (1e5 * 0.0408 / 4.09) / 3600, rel=0.02)
    assert not any("another" in column or "unchecked" in column for column in table.columns)


def test_without_a_checked_rate_a_gpus_hours_follow_from_recorded_trainings(measured: None):
    """Two trainings side by side and an hour later a third, all 30,000 iterations long."""
    setting = preset("resnet20").setting.updated(precision="bfloat16")
    timed = [(2_400, "11:00"), (1_800, "11:00"), (1_140, "13:00")]
    rows = [
        ["imp", 0, replicate, 1, "0", 30_000, seconds, device, "1", "2", "3", "4", f"2026-11-25T{end}Z", 1]
        for device in ("an unchecked GPU", "a GPU")
        for replicate, (seconds, end) in enumerate(timed, 1)
    ]
    made = pd.DataFrame(rows, columns=records.PROVENANCE).assign(level=lambda table: range(len(table)))
    records.write(records.results_folder(), setting, pd.DataFrame(columns=records.COLUMNS), made)
    table = costs_of_imagenet()
    # from 10:20 to the end of 11:00, and from 12:41 to the end of 13:00: 41 and 20 minutes
    speed = 3 * 30_000 * 128 / (61 * 60)
    checked, recorded = (table[f"hours, {device}, bfloat16 (estimate)"] for device in ("a GPU", "an unchecked GPU"))
    assert recorded.to_dict() == pytest.approx((checked * 1e5 / speed).to_dict())


def test_memory_is_that_of_a_piece_of_the_batch(measured: None):
    table = costs_of_imagenet()
    held = table["GiB, batch of 1,024 in 8 pieces"]
    assert 8 < held["ResNet-50"] < 16  # a batch of 128 in float32: known to fit a card of 16 GB, and none of 8
    assert held["SqueezeNet 1.0"] < held["ResNet-50"] < held["Inception-v3"]


def test_trainings_of_one_replicate(measured: None):
    """The dense run; one-shot tickets of seven sizes from both iterations; seven reinitialised; at the compared size,
    tickets in three more orders and random pruning in four, from both; and a repetition for the noise floor."""
    assert set(costs_of_imagenet()["trainings"]) == {1 + 2 * 7 + 7 + 2 * (3 + 4) + 1}
