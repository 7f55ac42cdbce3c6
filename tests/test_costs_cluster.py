"""The whole paper on many GPUs: list scheduling by hand, and hours and money from the units and the rates."""

from __future__ import annotations

import pandas as pd
import pytest
from test_costs import gpu, gpu_measured

from lth_study import SettingError, preset
from lth_study.costs import cluster
from lth_study.costs.cluster import Task, longest_way, makespan, paper_on_gpus, side_by_side, tasks_of_paper, ways
from lth_study.costs.limits import iteration_flops
from lth_study.costs.trainings import costs

DEVICE = "Graphics, bfloat16"
TASKS = {"a": Task(3), "b": Task(2, ("a",)), "c": Task(4), "d": Task(1, ("b", "c"))}


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 10^13 operations a second, on which two networks side by side are 4/3 as fast as one."""
    gpu_measured(gpu())
    monkeypatch.setattr(cluster, "gpu_rates", lambda: {DEVICE: 1e13, "Other, bfloat16": 1e13})


def test_ways_by_hand():
    assert ways(TASKS) == {"a": 6, "b": 3, "c": 5, "d": 1}
    assert longest_way(TASKS) == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("tasks", "machines", "ends"),
    [
        # one machine does all of it; with two, a and c start, b follows a at 3, and d follows b at 5
        *((TASKS, machines, end) for machines, end in ((1, 10), (2, 6), (3, 6))),
        # the longest way first: in their order, two machines would do both short ones first and end at 4
        ({"a": Task(1), "b": Task(1), "c": Task(3)}, 2, 3),
        # b is short, and c waits for it
        ({"a": Task(2), "b": Task(1), "c": Task(3, ("b",))}, 1, 6),
        ({"a": Task(2), "b": Task(1), "c": Task(3, ("b",))}, 2, 4),
        # at 0 a and b start; at 1 one machine is free: c, for two, waits; d takes it until 3; a ends at 4; c until 9
        ({"a": Task(4), "b": Task(1), "c": Task(5, ("b",), 2), "d": Task(2)}, 2, 9),
    ],
)
def test_a_schedule_by_hand(tasks: dict[str, Task], machines: int, ends: float):
    assert makespan(tasks, machines) == ends


def test_a_task_for_more_machines_than_there_are_is_refused():
    with pytest.raises(ValueError, match="more than 1 machines"):
        makespan({"a": Task(5, (), 2)}, 1)


def test_speeds_side_by_side_are_those_of_the_fastest_way():
    gpu_measured(gpu(), gpu(device="Other"), gpu(profile="smoke"))
    expected = pd.DataFrame({"images/s": [30_000, 40_000], "gain": [None, 1.33]}, index=[1, 2]).astype(
        {"images/s": int, "gain": float}
    )
    pd.testing.assert_frame_equal(side_by_side(DEVICE), expected.rename_axis("networks"))


@pytest.mark.usefixtures("rates")
def test_seconds_of_units_are_their_arithmetic_and_a_network_alone_is_slower():
    packed, apart = (tasks_of_paper(DEVICE, ["vgg19"], packed) for packed in (True, False))
    assert len(packed) == 3 * 3  # recipes and replicates
    study = preset("vgg19")
    seconds = costs(study).loc["all of it", "iterations, here"] * iteration_flops(study.setting) / 1e13
    assert packed[f"{study.setting.name}-replicate_1"].seconds == pytest.approx(seconds)
    of_first = [task.seconds for name, task in apart.items() if name.startswith(f"{study.setting.name}-replicate_1-")]
    assert len(of_first) == 1 + len(study.extent.rewinds)
    assert sum(of_first) == pytest.approx(seconds * 4 / 3)


@pytest.mark.usefixtures("rates")
def test_gpus_that_train_a_network_together_are_as_many_times_as_fast():
    one, eight = (tasks_of_paper(DEVICE, ["resnet50"], packed=False, together=n) for n in (1, 8))
    assert len(one) == 3 * (1 + 7)  # replicates; the dense run and levels
    for name, task in one.items():
        assert eight[name] == (pytest.approx(task.seconds / 8), task.needs, 8)


@pytest.mark.usefixtures("rates")
def test_hours_and_money_of_the_paper():
    table = paper_on_gpus(DEVICE, 3.0, ["resnet20", "resnet50"], (1, 64))
    one, many = table.loc[1], table.loc[64]
    assert list(many.index) == ["replicates", "smallest units", "smallest units, ImageNet on 8 GPUs"]
    assert one["hours"].to_numpy() == pytest.approx(one["GPU hours"].to_numpy())
    assert set(one["busy"]) == {"100%"}
    assert list(one.index) == ["replicates", "smallest units"]  # one GPU is no eight
    assert table["US$ at 3.00 an hour"].to_numpy() == pytest.approx(3 * table["GPU hours"].to_numpy())
    assert (many["hours"] >= many["of the longest way"]).all()
    assert many["hours"].is_monotonic_decreasing


@pytest.mark.usefixtures("rates")
def test_packing_pays_until_there_are_more_gpus_than_replicates(monkeypatch: pytest.MonkeyPatch):
    # four tasks of 3 s, or eight of 2 s. On one GPU 12 and 16 s, on two 6 and 8, on three 6 and 6, on four 3 and 4, on
    # five 3 and 4, on six and seven 3 and 4, on eight 3 and 2
    tasks = {True: {f"p{n}": Task(3) for n in range(4)}, False: {f"a{n}": Task(2) for n in range(8)}}
    monkeypatch.setattr(cluster, "tasks_of_paper", lambda device, networks, packed: tasks[packed])
    assert cluster.packing_pays_until(DEVICE) == 7


@pytest.mark.usefixtures("rates")
@pytest.mark.parametrize("price", [0, -1.0, "2.5", True, float("nan"), None])
def test_another_price_is_refused(price: object):
    with pytest.raises(SettingError, match=r"price: .* is not valid; expected dollars for an hour of one GPU"):
        paper_on_gpus(DEVICE, price)  # type: ignore[arg-type]


@pytest.mark.usefixtures("rates")
@pytest.mark.parametrize("device", ["Other, bfloat16", "Graphics"])
def test_a_device_that_was_not_measured_is_refused(device: str):
    with pytest.raises(SettingError, match=f"device: '{device}' was not measured; known: {DEVICE}"):
        paper_on_gpus(device, 2.5)
