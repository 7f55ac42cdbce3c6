"""Changes are paired by replicate, averaged over data orders, and stay within a recipe and one kind of processor."""

import pandas as pd
import pytest

from lth_study import Study, preset
from lth_study.report.differences import (
    changes_by_precision,
    changes_by_rewinding,
    slopes_by_rewinding,
    steps_by_rewinding,
)

LEVEL = 2
T_95_ONE_DEGREE = 12.7062  # of Student's t, from a table
LABELS = {"l2_data_order": "L2 between data orders", "l2_pruning": "L2 to the dense network"}
TRACE = {"device": "AMD EPYC (AVX2)", "finished": "2026-12-01T00:00Z"}


def rows(study: Study, replicate: int, k: int, accuracy: float, **distances: float) -> list[dict[str, object]]:
    """Records of one ticket; its accuracy is the mean of two data orders, four points apart."""
    about: dict[str, object] = {
        "recipe": study.setting.recipe,
        "dataset": study.setting.dataset,
        "method": "imp",
        **TRACE,
    }
    about |= {"rewind": k, "replicate": replicate, "level": LEVEL}
    found = [about | {"order": o, "metric": "test_accuracy", "value": accuracy + d} for o, d in (("0", 2), ("1", -2))]
    return found + [about | {"order": "0-1", "metric": name, "value": value} for name, value in distances.items()]


def test_each_k_is_compared_with_0_within_a_recipe_and_replicate():
    standard, low = (preset("resnet20", r, "smoke").updated(rewinds=(0, 4), levels=LEVEL) for r in ("standard", "low"))
    table = [
        *rows(standard, 1, 0, 90.0, l2_data_order=8.0, l2_pruning=7.0),
        *rows(standard, 1, 4, 91.0, l2_data_order=1.0, l2_pruning=3.5),
        *rows(standard, 2, 0, 80.0, l2_data_order=4.0),
        *rows(standard, 2, 4, 82.0, l2_data_order=2.0),
        *rows(low, 1, 0, 50.0),
        *rows(low, 1, 4, 70.0),
    ]
    changes = changes_by_rewinding([standard, low], pd.DataFrame(table))
    assert list(changes.index) == [("standard", 4), ("low", 4)]
    own, half = changes.loc[("standard", 4)], T_95_ONE_DEGREE / 2  # samples 1 and 2: deviation 1 / sqrt(2)
    assert own["accuracy (points)"] == f"+1.50 ({1.5 - half:+.2f} to {1.5 + half:+.2f})"
    factor = 2**T_95_ONE_DEGREE  # logarithms to base 2 are -3 and -1
    assert own["L2 between data orders (quotient)"] == f"0.25 ({0.25 / factor:.2f} to {0.25 * factor:.2f})"
    assert (own["L2 to the dense network (quotient)"], own["replicates"]) == ("", 2)
    one = changes.loc[("low", 4)]
    assert (one["accuracy (points)"], one["replicates"]) == ("", 1)  # one replicate has no interval


def test_precisions_are_compared_with_the_first_for_every_subnetwork():
    study = preset("resnet20", profile="smoke")
    table = pd.concat(
        pd.DataFrame(rows(study, replicate, k, 90.0 + gain + replicate, l2_pruning=3.0 * factor)).assign(
            precision=precision, method=method
        )
        for precision, factor, gain in (("float32", 1.0, 0.0), ("bfloat16", 2.0, -0.5))
        for method in ("imp", "random_pruning")
        for replicate in (1, 2)
        for k in (0, 4)
    )
    dense = table[table["rewind"] == 0].assign(method="dense", level=0)  # no subnetwork of the level
    changes = changes_by_precision(pd.concat([table, dense]), level=LEVEL)
    assert changes.index.names == ["precision", "subnetwork", "k"]
    names = ["IMP", "random pruning"]
    assert sorted(changes.index) == [("bfloat16", name, k) for name in names for k in (0, 4)]
    assert set(changes["accuracy (points)"]) == {"-0.50 (-0.50 to -0.50)"}
    assert set(changes["L2 to the dense network (quotient)"]) == {"2.00 (2.00 to 2.00)"}
    assert set(changes["angle to the dense network (quotient)"]) == {""}
    with pytest.raises(ValueError, match="several data sets"):
        changes_by_precision(pd.concat([table, table.assign(dataset="cifar10")]), level=LEVEL)


def test_without_rewinding_nothing_changes_and_the_table_is_empty():
    study = preset("resnet20", profile="smoke").updated(rewinds=(0,), levels=LEVEL)
    table = pd.DataFrame(rows(study, 1, 0, 1.0))
    changes = changes_by_rewinding([study], table)
    assert len(changes) == 0
    assert changes.index.names == ["recipe", "k"]
    steps = steps_by_rewinding(table, study.extent.rewinds, level=LEVEL)
    assert len(steps) == 0
    assert steps.index.names == ["step", "of"]


# Steps on the grid of k. Of three values with deviation 1 the interval's half-width is 4.30265 / sqrt(3) = 2.4841; of
# logarithms to base 2 that makes a factor of 2^2.4841 = 5.595.

ACCURACY = "accuracy (points)"
DATA_ORDER, PRUNING = (f"{label} (quotient)" for label in LABELS.values())
NETWORKS: dict[tuple[str, str, int], list[float]] = {
    ("test_accuracy", "imp", 0): [80.0, 81.0, 82.0],
    ("test_accuracy", "imp", 4): [83.0, 83.0, 86.0],
    ("test_accuracy", "imp", 1_000): [84.0, 85.0, 89.0],
    ("test_accuracy", "random_pruning", 0): [70.0, 71.0, 72.0],
    ("test_accuracy", "random_pruning", 4): [72.0, 71.0, 73.0],
    ("l2_data_order", "imp", 0): [8.0, 16.0, 32.0],
    ("l2_data_order", "imp", 4): [4.0, 4.0, 4.0],
    ("l2_data_order", "imp", 1_000): [16.0, 4.0, 8.0],
    ("l2_data_order", "random_pruning", 0): [10.0, 8.0, 6.0],
    ("l2_data_order", "random_pruning", 4): [10.0, 2.0, 3.0],
    ("l2_pruning", "imp", 0): [2.0, 6.6],
    ("l2_pruning", "imp", 4): [1.0, 3.0],
}
"""Metric, method and k -> replicates 1, 2, 3."""


@pytest.fixture
def grid() -> pd.DataFrame:
    """Those networks as records: accuracies in two data orders, six points apart; another level says otherwise."""
    apart = {"test_accuracy": {"0": 3.0, "1": -3.0}, "l2_data_order": {"0-1": 0.0}, "l2_pruning": {"0": 0.0}}
    table = [
        (metric, method, k, replicate, level, order, value + offset + level - LEVEL)
        for (metric, method, k), values in NETWORKS.items()
        for replicate, value in enumerate(values, 1)
        for level in (LEVEL, 1_000 + k)
        for order, offset in apart[metric].items()
    ]
    columns = ["metric", "method", "rewind", "replicate", "level", "order", "value"]
    return pd.DataFrame(table, columns=columns).assign(**TRACE)


def test_steps_on_the_grid_of_k_are_those_of_tickets_and_beyond_random_subnetworks(grid: pd.DataFrame):
    """Accuracy is gained, later less earlier; stability is the earlier distance divided by the later one."""
    steps = steps_by_rewinding(grid, (1_000, 0, 4), level=LEVEL)
    assert list(steps.columns) == [ACCURACY, DATA_ORDER, PRUNING, "replicates"]
    assert steps[ACCURACY].to_dict() == {
        ("0 to 4", "tickets"): "+3.00 (+0.52 to +5.48)",  # 3, 2, 4
        ("0 to 4", "tickets, beyond random"): "+2.00 (-0.48 to +4.48)",  # less 2, 0, 1: 1, 2, 3
        ("4 to 1,000", "tickets"): "+2.00 (-0.48 to +4.48)",  # 1, 2, 3
        ("4 to 1,000", "tickets, beyond random"): "",  # no random subnetwork is rewound to 1,000
    }
    assert steps[DATA_ORDER].to_list() == [
        "4.00 (0.71 to 22.38)",  # 2, 4, 8
        "2.00 (0.36 to 11.19)",  # by 1, 4, 2: 2, 1, 4
        "0.50 (0.09 to 2.80)",  # 1/4, 1, 1/2
        "",
    ]


def test_a_step_counts_the_replicates_that_have_both_ends(grid: pd.DataFrame):
    """Quotients 2 and 2.2: a half-width of 12.7062 times half the logarithm of 1.1."""
    steps = steps_by_rewinding(grid, (0, 4), level=LEVEL)
    assert steps.loc[("0 to 4", "tickets"), PRUNING] == "2.10 (1.14 to 3.84)"
    assert steps.loc[("0 to 4", "tickets, beyond random"), PRUNING] == ""
    assert steps["replicates"].tolist() == [3, 3]
    scores = grid[grid["metric"] == "test_accuracy"]
    assert steps_by_rewinding(scores, (0, 4), level=LEVEL)["replicates"].tolist() == [3, 3]
    two = steps_by_rewinding(grid[grid["replicate"] != 2], (0, 4), level=LEVEL)
    assert two.loc[("0 to 4", "tickets"), ACCURACY] == "+3.50 (-2.85 to +9.85)"  # 3 and 4: 12.7062 / 2
    assert two["replicates"].tolist() == [2, 2]


def test_slopes_are_least_squares_over_levels_and_their_differences_are_paired():
    """Of three levels the slope is half of the last less the first, whatever is between: -2, -1, -3 and thrice -1."""
    accuracies = {
        0: [(90.0, 85.0, 86.0), (80.0, 83.0, 78.0), (70.0, 70.0, 64.0)],
        4: [(90.0, 95.0, 88.0), (80.0, 70.0, 78.0), (70.0, 70.0, 68.0)],
    }
    table = [
        ("test_accuracy", "imp", k, replicate, level, order, value + offset)
        for k, replicates in accuracies.items()
        for replicate, values in enumerate(replicates, 1)
        for level, value in enumerate(values, 1)
        for order, offset in (("0", level), ("1", -level))
    ]
    columns = ["metric", "method", "rewind", "replicate", "level", "order", "value"]
    slopes = slopes_by_rewinding(pd.DataFrame(table, columns=columns).assign(**TRACE), (0, 4), (1, 2, 3))
    assert slopes["slope (points a level)"].to_dict() == {
        "tickets, k = 0": "-2.00 (-4.48 to +0.48)",
        "tickets, k = 4": "-1.00 (-1.00 to -1.00)",
        "k = 4 less k = 0": "+1.00 (-1.48 to +3.48)",  # 1, 0, 2
    }
    assert slopes["replicates"].tolist() == [3, 3, 3]
