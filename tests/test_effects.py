"""Effects are computed replicate by replicate, over all data orders, and only where one kind of processor made them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lth_study.report.effects import (
    Term,
    estimate,
    one_sided,
    parse,
    placed,
    sample,
    smallest_effect,
)

EPYC, XEON = "AMD EPYC (AVX2)", "Intel Xeon (AVX512)"
Row = tuple[str, str, int, int, int, float]
"""Metric, method, rewind, replicate, level, value."""


def table(rows: list[Row], device: str = EPYC, finished: str = "2026-12-01T00:00Z") -> pd.DataFrame:
    columns = ["metric", "method", "rewind", "replicate", "level", "value"]
    return pd.DataFrame(rows, columns=columns).assign(device=device, finished=finished)


def study(*tables: pd.DataFrame):
    places = placed(pd.concat(tables))

    def records(changes: Mapping[str, Any]):
        assert not changes
        return places

    return records


ACCURACIES: list[Row] = [
    ("test_accuracy", "dense", 0, 1, 0, 80.0),
    ("test_accuracy", "dense", 0, 1, 0, 82.0),  # another data order
    ("test_accuracy", "dense", 0, 2, 0, 90.0),
    ("test_accuracy", "imp", 0, 1, 3, 70.0),
    ("test_accuracy", "imp", 0, 1, 3, 76.0),
    ("test_accuracy", "imp", 0, 2, 3, 85.0),
    ("test_accuracy", "imp", 5, 1, 3, 79.0),
    ("test_accuracy", "imp", 5, 2, 3, 88.0),
    ("test_accuracy", "random_pruning", 0, 1, 3, 60.0),
    ("test_accuracy", "random_pruning", 0, 2, 3, 61.0),
    ("test_accuracy", "random_pruning", 5, 1, 3, 62.0),
    ("test_accuracy", "random_pruning", 5, 2, 3, 64.5),
]


@pytest.mark.parametrize(
    ("effect", "by_hand"),
    [
        ("dense", {1: 81.0, 2: 90.0}),
        ("imp@0 - dense", {1: 73.0 - 81.0, 2: -5.0}),
        ("imp@5 - imp@0", {1: 6.0, 2: 3.0}),
        ("imp@5 - imp@0 - random_pruning@5 + random_pruning@0", {1: 6.0 - 2.0, 2: 3.0 - 3.5}),
        ("imp@9 - imp@0", {}),
    ],
)
def test_accuracies_are_averaged_over_data_orders_and_subtracted(effect: str, by_hand: dict[int, float]):
    assert sample(study(table(ACCURACIES)), effect, "test_accuracy", (3,)).values.to_dict() == by_hand


def test_distances_are_divided_pairs_of_orders_averaged():
    rows: list[Row] = [
        ("l2_data_order", "random_pruning", 0, 1, 2, 10.0),
        ("l2_data_order", "random_pruning", 0, 1, 2, 14.0),
        ("l2_data_order", "imp", 0, 1, 2, 3.0),
        ("l2_data_order", "imp", 0, 1, 3, 999.0),
    ]
    found = sample(study(table(rows)), "random_pruning@0 - imp@0", "l2_data_order", (2,)).values
    assert found.to_dict() == {1: pytest.approx(math.log(12 / 3))}


def test_over_levels_an_effect_is_the_least_squares_slope():
    values = {1: [90.0, 89.0, 86.0, 85.5], 2: [70.0, 70.5, 71.5, 71.0]}
    rows = [("test_accuracy", "imp", 0, r, n, v) for r, own in values.items() for n, v in enumerate(own, 1)]
    rows += [("test_accuracy", "imp", 0, 3, n, 1.0) for n in (1, 2, 4)]  # a level is missing: no slope
    found = sample(study(table(rows)), "imp@0", "test_accuracy", range(1, 5)).values
    by_hand = {}  # sum((n - mean)(v - mean)) / sum((n - mean)^2)
    for r, own in values.items():
        mean = sum(own) / 4
        by_hand[r] = sum((n - 2.5) * (v - mean) for n, v in zip((1, 2, 3, 4), own, strict=True)) / 5.0
    assert found.to_dict() == pytest.approx(by_hand)


def test_a_replicate_of_several_kinds_of_processor_is_dropped_and_counted():
    both = (
        table([("test_accuracy", "imp", 0, 4, 3, 70.0)], EPYC),
        table([("test_accuracy", "dense", 0, 4, 0, 80.0)], XEON),
    )
    pair = table(
        [("test_accuracy", "imp", 0, 5, 3, 70.0), ("test_accuracy", "dense", 0, 5, 0, 7.0)], f"{EPYC} and {XEON}"
    )
    found = sample(study(table(ACCURACIES), *both, pair), "imp@0 - dense", "test_accuracy", (3,))
    assert (set(found.values.index), found.dropped) == ({1, 2}, 2)
    elsewhere = sample(study(table(ACCURACIES), *both, pair), "imp@0", "test_accuracy", (3,))
    assert (set(elsewhere.values.index), elsewhere.dropped) == ({1, 2, 4}, 1)


def test_replicates_that_a_diverged_training_leaves_without_a_value_are_counted():
    """Replicate 3 diverged a level before, 4 as a dense network, 5 after all levels of the effect."""
    places = (("imp", 0, 3, 2), ("dense", 0, 4, 0), ("imp", 0, 5, 4))
    lost = table([("diverged", method, k, replicate, level, 7.0) for method, k, replicate, level in places])
    whole = table([("test_accuracy", "dense", 0, 5, 0, 80.0), ("test_accuracy", "imp", 0, 5, 3, 81.0)])
    found = sample(study(table(ACCURACIES), lost, whole), "imp@0 - dense", "test_accuracy", (3,))
    assert (found.values.to_dict(), found.diverged) == ({1: -8.0, 2: -5.0, 5: 1.0}, 2)
    assert sample(study(table(ACCURACIES), lost), "imp@5 - dense", "test_accuracy", (3,)).diverged == 1


def test_a_sample_knows_when_the_first_of_its_trainings_was_finished():
    late = table([("test_accuracy", "imp", 0, 1, 3, 70.0)], finished="2026-12-24T00:00Z")
    early = table([("test_accuracy", "dense", 0, 1, 0, 80.0)], finished="2026-11-01T00:00Z")
    found = sample(study(late, early), "imp@0 - dense", "test_accuracy", (3,))
    assert found.finished.to_dict() == {1: "2026-11-01T00:00Z"}


def test_effects_are_read_as_they_are_written():
    assert parse("imp@25 - random_pruning@0 + dense{weight_decay=0.5}") == [
        Term(1, "imp", 25),
        Term(-1, "random_pruning", 0),
        Term(1, "dense", 0, (("weight_decay", 0.5),)),
    ]


@pytest.mark.parametrize("text", ["imp@25 imp@0", "imp@k", "pruned@0", "imp@25 -", ""])
def test_what_is_no_effect_is_refused(text: str):
    with pytest.raises(ValueError, match="cannot be read"):
        parse(text)


@pytest.mark.parametrize(
    ("values", "options", "shown"),
    [
        ([2.0, 3.0, 4.0], {}, "+3.00 (+0.52 to +5.48)"),  # 4.30265 / sqrt(3) on either side
        ([-2.0, -3.0, -4.006], {"confidence": 0.9}, "-3.00 (90%: -4.69 to -1.31)"),  # 2.91999 / sqrt(3)
        ([math.log(2.0), math.log(2.2)], {"ratio": True}, "2.10 (1.14 to 3.84)"),  # 12.7062 * log(1.1) / 2
        ([1.0, 1.0], {}, "+1.00 (+1.00 to +1.00)"),
        ([1.0], {}, "None"),
    ],
)
def test_an_interval_is_students_over_replicates(values: list[float], options: dict[str, Any], shown: str):
    assert str(estimate(pd.Series(values), **options)) == shown


def test_without_spread_a_mean_beyond_the_bound_is_certain():
    assert [one_sided(pd.Series([1.0, 1.0]), bound) for bound in (0.5, 1.0)] == [0.0, 1.0]


@pytest.mark.parametrize("replicates", [3, 8])
def test_the_smallest_effect_is_found_four_times_in_five(replicates: int):
    draws = np.random.default_rng(1).normal(smallest_effect(replicates), 1.0, (20_000, replicates))
    low = draws.mean(1) - {3: 4.30265, 8: 2.36462}[replicates] * draws.std(1, ddof=1) / math.sqrt(replicates)
    assert (low > 0).mean() == pytest.approx(0.8, abs=0.01)
