"""What the experiments cost, counted by hand."""

import json
import math

import common
import pandas as pd
import pytest
from conftest import PROJECT, provenance_of, records_of

from lth_study import SettingError, preset, records
from lth_study.costs.benchmarks import benchmark as measured_speeds
from lth_study.costs.benchmarks import gpu_benchmark, measured_rates, medians, resnet20_on_gpus, time_shares
from lth_study.costs.faults import COUNTS, campaign
from lth_study.costs.hours import WATTS_PER_CORE, costs_of_figures, floors
from lth_study.costs.imagenet import costs_of_imagenet
from lth_study.costs.limits import floor_seconds, iteration_flops
from lth_study.costs.trainings import costs, costs_of_networks, growth, growth_of_networks
from lth_study.report import NETWORK_NAMES, readable
from lth_study.settings import Setting

SMALL = preset("lenet_300_100", profile="smoke")
"""Rewinds 0 and 20 of 120 iterations, two levels, all methods at the second, two orders, one replicate."""


def test_one_dense_run_serves_every_rewinding_iteration_and_nothing_before_k_is_repeated():
    # a dense run, two levels of IMP, the second in another order, random pruning in two, a reinitialised ticket
    each, repetition = 1 + 2 + 1 + 2 + 1, 1
    here = (each + repetition) * 120 + (2 + 1 + 2) * 100 + 120
    assert costs(SMALL).loc["stability"].tolist() == [
        2 * each + repetition,
        2 * each + repetition - 1,
        (2 * each + repetition) * 120,
        here,
        pytest.approx(1_580 / 1_800, abs=0.005),
    ]
    remaining = costs(SMALL.updated(reinit_length="remaining")).loc["stability"]
    assert remaining["iterations, here"] == here - 20  # the ticket reinitialised at k = 20
    pd.testing.assert_frame_equal(costs(SMALL.updated(replicates=7)), costs(SMALL))  # costs are of one replicate


def test_parts_share_what_they_have_in_common():
    table = costs(SMALL)
    parts = table.drop(index="all of it")
    together = table.loc["all of it"]
    assert together["trainings, one by one"] == parts["trainings, one by one"].sum()
    # the dense run and two levels of IMP at k = 0, the second's controls and its repetition, are in all three parts
    assert together["trainings, here"] < parts["trainings, here"].sum() - 2 * 5


def test_every_network_is_listed_and_an_unknown_profile_is_refused():
    benchmark(Processor={"product": 90.0})
    assert list(costs_of_networks("smoke").index.unique("network")) == [*NETWORK_NAMES.values()]
    for table in (costs_of_networks, costs_of_figures):
        with pytest.raises(SettingError, match="'gigantic'"):
            table("gigantic")


def test_how_cost_grows_by_hand():
    table = growth(SMALL)
    names = ["as it is", "twice the replicates", "twice the rewinding iterations", "twice the levels"]
    stability, accuracy = (table.loc[part].unstack().loc[names] for part in ("stability", "accuracy"))
    # at each of two rewinding iterations: two levels of IMP, and at the second another order, random pruning in two and
    # a reinitialised ticket (which trains for all 120 iterations); a dense run and a repetition. Rewinding to 1 and 21
    # too leaves those two single. Two more levels are of IMP alone: the controls are those of the last level
    assert list(stability["trainings"]) == [14, 28, 2 + 4 * 6, 14 + 2 * 2]
    as_it_is = 2 * 120 + 6 * 120 + 5 * 100 + 120
    more_rewinds = 2 * 120 + sum(5 * (120 - k) + 120 for k in (0, 1, 20, 21))
    assert list(stability["iterations"]) == [as_it_is, 2 * as_it_is, more_rewinds, as_it_is + 2 * (120 + 100)]
    # at k = 0 alone: IMP, random pruning and reinitialisation at every level, and a dense run
    assert list(accuracy["trainings"]) == [7, 14, 1 + 2 * 6, 1 + 4 * 3]
    assert list(accuracy["iterations"]) == [7 * 120, 14 * 120, 120 + 6 * 120 + 4 * 119 + 2 * 120, 13 * 120]


def test_one_shot_pruning_grows_by_further_densities():
    table = growth(preset("resnet50", profile="smoke"))
    # one density more: in each of two rewinding iterations an IMP ticket more; what is compared is at the last level
    more = table["twice the levels"]["trainings"] - table["as it is"]["trainings"]
    assert more["stability"] == 2
    assert list(growth_of_networks("smoke").loc["ResNet-50"].loc["stability"]) == list(table.loc["stability"])


def benchmark(**processors: dict[str, float]) -> None:
    """A benchmark that measured these medians on processors."""
    names = {"product": "matrix product (GFLOP/s)", "memory": "memory bandwidth (GB/s)"}
    rows = [
        {"device": device, "measure": names.get(name, name), "unit": "share" if " share of " in name else "any",
         "median": value, "smallest": value / 2, "largest": 2 * value}
        for device, measures in processors.items()
        for name, value in measures.items()
    ]  # fmt: skip
    records.results_folder().mkdir(exist_ok=True)
    table = pd.DataFrame(rows).assign(measured="2026-11-25")
    table.to_csv(records.results_folder() / "benchmark.csv", index=False)


def recorded(setting: Setting, **seconds: list[float]) -> None:
    """Provenance of trainings from iteration 20 on, on devices, that took these seconds."""
    timed = [(device, each) for device, several in seconds.items() for each in several]
    devices, times = zip(*timed, strict=True)
    places = [("imp", 20, replicate, 1, "0") for replicate in range(len(timed))]
    made = provenance_of(places, iterations=setting.iterations - 20, seconds=times, device=devices)
    records.write(records.results_folder(), setting, records_of(setting, []), made)


PROCESSOR = {"product": 90.0, "memory": 6.0}


def test_the_benchmark_gives_each_processor_a_column_with_its_spread_and_rates_from_its_medians():
    benchmark(Processor=PROCESSOR, Newer={"product": 200.0})
    table, rates = measured_speeds(), measured_rates()
    assert table.to_dict("list") == {
        "Processor, 2026-11-25": ["90 (45 to 180)", "6 (3 to 12)"],
        "Newer, 2026-11-25": ["200 (100 to 400)", ""],
    }
    assert rates == {"Processor": (90e9, 6e9, "Processor"), "Newer": (200e9, math.inf, "Newer")}
    said = "One core of Processor reaches 90.0 GFLOP/s, and moves 6.0 GB/s to and from memory."
    assert str(rates["Processor"]) == said
    assert "not measured yet" in str(rates["Newer"])


def test_floors_are_listed_beside_what_was_recorded():
    """They are of arithmetic alone where no speed of memory was measured."""
    benchmark(Processor=PROCESSOR, Newer={"product": 200.0})
    setting = preset("resnet20", profile="laptop").setting
    # the stand-in's records are those of the network: an image costs the same
    recorded(setting.updated(dataset="cifar10_jpeg"), Processor=[98.0, 49.0, 490.0], Graphics=[9.8])
    recorded(setting.updated(batch_size=32), Processor=[1.0])
    table = floors().sort_index()
    assert not table.index.get_level_values("profile").isin(["smoke"]).any()
    assert (table.loc["ResNet-20", "paper"]["recorded (s)"] == "").all()
    least, columns = floor_seconds(setting, 90e9, 6e9), ["recorded (s)", "floor (s)", "floor / recorded"]
    laptop = table.loc["ResNet-20", "laptop"][columns]  # the median of 980 iterations, for all 1,000
    assert laptop.loc["Processor"].tolist() == [100.0, round(least, 1), round(least / 100, 2)]
    assert laptop.loc["Graphics"].tolist() == [10.0, "", ""]
    assert laptop.loc["Newer"].tolist() == ["", round(1_000 * iteration_flops(setting) / 200e9, 1), ""]


def test_networks_side_by_side_on_a_gpu_share_its_time():
    """All end in one minute, which counts: 360 seconds for the 2,940 iterations of three. Cores are not shared."""
    benchmark(Processor=PROCESSOR)
    three = [300.0] * 3
    recorded(preset("resnet20", profile="laptop").setting, Graphics=three, **{"Xeon (AVX2)": three})
    seconds = floors().sort_index().loc["ResNet-20", "laptop"]["recorded (s)"]
    assert (seconds["Graphics"], seconds["Xeon (AVX2)"]) == (122.4, 306.1)


def test_hours_are_recorded_where_they_can_be_and_computed_elsewhere():
    benchmark(Processor=PROCESSOR, Newer={"product": 200.0})
    study = preset("lenet_300_100", profile="laptop")
    recorded(study.setting, Graphics=[1.0, 1.0, 1.0], Processor=[19.8])
    table = costs_of_figures("laptop")
    assert list(table.columns.unique(0)) == ["", "Processor", "Newer"]
    assert set(table["", "profile"]) == {"laptop"}
    lenet, resnet = table.loc["LeNet-300-100"], table.loc["ResNet-20"]
    assert set(lenet["Processor", "hours from"]) == {"records"}
    assert set(lenet["Newer", "hours from"]) == set(resnet["Processor", "hours from"]) == {"the floor"}
    iterations = len(study.extent.replicates) * costs(study)["iterations, here"].loc[lenet.index]
    assert lenet["Processor", "hours"].tolist() == pytest.approx((iterations * 0.01 / 3600).tolist(), abs=0.05)
    work = iterations * iteration_flops(study.setting) / 1e15
    assert lenet["", "PFLOP"].tolist() == pytest.approx(work.tolist(), abs=1e-3)
    energy = resnet.loc["all of it", ("Processor", f"kWh at {WATTS_PER_CORE} W (estimate)")]
    hours = resnet.loc["all of it", ("Processor", "hours")]
    assert energy == pytest.approx(hours * WATTS_PER_CORE / 1000, abs=0.05 * WATTS_PER_CORE / 1000 + 0.0005)


def test_numbers_are_written_to_be_read():
    table = pd.DataFrame(
        {"count": [3_074_828, 7], "hours": [3_074_828.1, 0.25], "some": [31.2314, math.nan], "word": ["a", ""]}
    )
    assert readable(table).to_dict("list") == {
        "count": ["3,074,828", "7"], "hours": ["3,075,000", "0.25"], "some": ["31.23", ""], "word": ["a", ""],
    }  # fmt: skip


def test_shares_of_the_time_have_a_table_of_their_own():
    benchmark(Processor=PROCESSOR)
    assert time_shares().empty
    benchmark(
        Processor=PROCESSOR | {"ResNet-20, share of batch norm": 0.25, "ResNet-20, share of the rest": 0.75},
        Newer={"product": 200.0, "ResNet-20, share of batch norm": 0.5},
    )
    table = time_shares()
    assert list(table.columns) == ["batch norm", "the rest"]
    assert list(table.loc["ResNet-20", "Processor"]) == ["25.0%", "75.0%"]
    assert list(table.loc["ResNet-20", "Newer"]) == ["50.0%", ""]
    assert not measured_speeds().index.str.contains("share").any()


def passed(*ways: str) -> list[dict[str, object]]:
    return [{"way": way, "relative_difference": 0.1, "tolerance": 0.3} for way in ways]


def gpu(**changes: object) -> dict[str, object]:
    """A measurement on a GPU: a loop, a graph of one network and of two, and a loader loop; the ways checked."""
    speeds = [("loop", 1, 10_000), ("graph", 1, 30_000), ("graph", 2, 40_000), ("loader", 1, 2_000)]
    rows = [{"way": w, "members": n, "images/s": rate, "to one loop": rate / 10_000} for w, n, rate in speeds]
    about = {"network": "resnet20", "profile": "paper", "precision": "bfloat16", "batch": 128, "device": "Graphics"}
    return about | {"torch": "2.14", "checks": passed("loop", "graph"), "measured": rows} | changes


def gpu_measured(*measurements: dict[str, object]) -> None:
    records.results_folder().mkdir(exist_ok=True)
    (records.results_folder() / "benchmark_gpu.json").write_text(json.dumps(measurements))


def test_measurements_on_gpus_are_listed_and_a_way_that_passed_no_check_has_the_verdict_in_place_of_its_rate():
    floor = {"images/s at the floor": 400_000.0}
    unlike = {"way": "loop", "identical": False, "largest_difference": 0.0}
    broken = {"way": "graph", "relative_difference": math.nan, "tolerance": 0.3}
    whole = gpu(precision="tf32", **floor)
    whole["measured"][2]["peak memory (MiB)"] = 512.4
    unchecked = gpu(device="Void", checks=[unlike, *passed("graph")])
    gpu_measured(gpu(), whole, unchecked, gpu(device="Wrong", checks=[*passed("loop"), broken], **floor))
    table, about = gpu_benchmark()
    assert about.splitlines() == [
        "- ResNet-20, paper, bfloat16, Graphics: batches of 128, torch 2.14",
        "- ResNet-20, paper, tf32, Graphics: batches of 128, torch 2.14",
        "- ResNet-20, paper, bfloat16, Void: batches of 128, torch 2.14; unchecked: loop, loader",
        "- ResNet-20, paper, bfloat16, Wrong: batches of 128, torch 2.14; failed: graph",
    ]
    older, newer, void, wrong = (table[first : first + 4] for first in range(0, 16, 4))
    assert table.index.names == ["network", "profile", "precision", "device", "way", "members"]
    assert list(older["images/s"]) == [10_000, 30_000, 40_000, 2_000]
    assert older[["floor / measured", "peak memory (MiB)"]].isna().all(axis=None)
    assert list(newer.iloc[2]) == [40_000, 4.0, 0.1, 512.0]
    assert list(void["images/s"]) == ["unchecked", 30_000, 40_000, "unchecked"]
    assert list(wrong["images/s"]) == [10_000, "failed", "failed", 2_000]
    assert list(void["to one loop"].isna()) == [True, False, False, True]
    assert list(wrong["floor / measured"].isna()) == [False, True, True, False]


def test_the_committed_measurements_give_a_rate_only_where_a_check_has_a_tolerance():
    shown = iter(gpu_benchmark()[0]["images/s"])
    for record in json.loads((PROJECT / "results" / "benchmark_gpu.json").read_text()):
        with_tolerance = {check["way"] for check in record["checks"] if "tolerance" in check}
        for row in record["measured"]:
            way = "loop" if row["way"] == "loader" else row["way"]
            assert (next(shown) == "unchecked") != (way in with_tolerance)


def test_the_fastest_way_of_resnet_20_is_among_those_that_passed():
    others = [gpu(network="vgg19"), gpu(profile="smoke"), gpu(device="Old", measured=gpu()["measured"][:1])]
    gpu_measured(gpu(), *others, gpu(device="New", checks=passed("loop")), gpu(device="Void", checks=[]))
    assert resnet20_on_gpus() == {"Graphics, bfloat16": 40_000, "New, bfloat16": 10_000}


def test_a_processor_at_another_speed_is_a_column_of_its_own_and_floors_take_the_faster_one(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(common, "device_name", lambda: "Processor")
    benchmark(Processor=PROCESSOR | {"ours": 7.0}, Newer={"product": 200.0})  # products: from 45 to 180
    for median, largest, columns, fastest in ((20.0, 44.0, 3, 90e9), (30.0, 46.0, 2, 30e9)):
        spread = {"median": median, "smallest": 15.0, "largest": largest}
        product = {"measure": "matrix product (GFLOP/s)", "unit": "GFLOP/s"} | spread
        common.keep(pd.DataFrame([product, {"measure": "ours", "unit": "ms"} | spread]), "benchmark.csv")
        assert len(measured_speeds().columns) == columns
        assert medians()["ours"]["Processor"] == median  # of the last machine
        assert measured_rates()["Processor"].flops_per_second == fastest
        assert list(measured_rates()) == list(medians().index)


# ImageNet's networks


@pytest.fixture
def measured() -> None:
    benchmark(
        **{"a CPU": {"ResNet-50, ours (images/s)": 2.0, "SqueezeNet 1.0, ours (images/s)": 8.0, "product": 100.0}}
    )
    fast = [{"way": "loop", "images/s": 5e4}, {"way": "graph", "images/s": 1e5}]
    smaller = gpu(profile="smoke", device="another", measured=[{"way": "graph", "images/s": 9e9}])
    slow = gpu(device="another CPU", measured=[{"way": "loop", "images/s": 500.0}])
    unchecked = gpu(device="an unchecked GPU", measured=fast)
    del unchecked["checks"]
    gpu_measured(gpu(device="a GPU", measured=fast), smaller, slow, unchecked)


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


# Faults


def test_kinds_are_chosen_by_a_part_of_their_names():
    rows = [("SIGKILL", 200, 199, 0, 1, 0, 1), ("damaged: mask", 50, 50, 31, 0, 2, 0)]
    records.results_folder().mkdir()
    pd.DataFrame(rows, columns=["fault", *COUNTS]).to_csv(records.results_folder() / "faults.csv", index=False)
    assert campaign()["fault"].tolist() == ["SIGKILL", "damaged: mask"]
    assert campaign("mask")["struck"].tolist() == [50]
    with pytest.raises(SettingError, match="kind: no fault has 7 in its name; known: SIGKILL, damaged: mask"):
        campaign(7)  # as a notebook may give it
