"""Which sense of stability separates matching subnetworks from the others, against counts by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from lth_study.report import METRIC_NAMES
from lth_study.report.matching import SENSES, separation, subnetworks


def records(profile: str = "laptop") -> pd.DataFrame:
    """Two replicates: tickets rewound to 10 are the most accurate, those rewound to 0 are not far behind in one."""
    accuracy = {("imp", 0): (80.0, 81.9), ("imp", 10): (82.0, 82.0), ("random_pruning", 10): (70.0, 71.0)}
    rows = []
    for (method, rewind), values in accuracy.items():
        for replicate, value in enumerate(values, start=1):
            where = {"method": method, "rewind": rewind, "replicate": replicate, "level": 8}
            rows += [where | {"order": str(o), "metric": "test_accuracy", "value": value + o - 0.5} for o in (0, 1)]
            rows += [
                where | {"order": "0-1", "metric": sense, "value": place * value + replicate}
                for place, sense in enumerate(SENSES)
            ]
    dense = {"method": "dense", "rewind": 0, "level": 0, "order": "0", "metric": "test_accuracy"}
    rows += [dense | {"replicate": replicate, "value": 82.15} for replicate in (1, 2)]
    return pd.DataFrame(rows).assign(profile=profile)


REWOUND = [("imp", 10, 1), ("imp", 10, 2)]


@pytest.mark.parametrize(("profile", "matching"), [("laptop", [("imp", 0, 2), *REWOUND]), ("paper", REWOUND)])
def test_a_matching_subnetwork_is_within_two_tenths_of_the_best_or_of_the_dense_network(profile, matching):
    table = subnetworks(records(profile))
    assert len(table) == 6
    found = table[table["matching"]]
    assert list(zip(found["method"], found["rewind"], found["replicate"], strict=True)) == matching
    assert table.set_index(["method", "rewind", "replicate"]).loc[("imp", 0, 2), "accuracy"] == 81.9


def test_a_subnetwork_without_one_of_the_senses_is_left_out():
    some = records()
    lacking = (some["metric"] == SENSES[0]) & (some["method"] == "random_pruning")
    assert set(subnetworks(some[~lacking])["method"]) == {"imp"}
    with pytest.raises(ValueError, match="nothing is recorded of all senses of stability"):
        subnetworks(some[some["metric"] != SENSES[1]])


def test_the_area_is_the_share_of_pairs_in_the_right_order_and_ties_count_half():
    chance = np.random.default_rng(5)
    table = pd.DataFrame(
        {sense: chance.integers(0, 6, 24).astype(float) for sense in SENSES}
        | {"matching": np.arange(24) % 3 == 0, "replicate": np.arange(24) % 4}
    )
    found = separation(table, draws=50)
    for sense in SENSES:
        pairs = product(table.loc[table["matching"], sense], table.loc[~table["matching"], sense])
        expected = float(np.mean([(a < b) + (a == b) / 2 for a, b in pairs]))
        row = found.loc[METRIC_NAMES[sense]]
        assert row["area"] == pytest.approx(expected)
        assert row["low"] <= row["high"]
    assert found["area"].is_monotonic_decreasing
    alone = separation(table[table["replicate"] == 0])
    assert alone["low"].isna().all()


def test_replicates_that_are_alike_give_intervals_without_width():
    one = pd.DataFrame({sense: [1.0, 2.0, 3.0, 4.0] for sense in SENSES} | {"matching": [True, False, True, False]})
    table = pd.concat([one.assign(replicate=replicate) for replicate in (1, 2, 3)])
    found = separation(table, draws=20)
    assert (found[["area", "low", "high"]] == 0.75).all(axis=None)
