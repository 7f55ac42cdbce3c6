"""What the experiments cost, counted by hand."""

import pandas as pd
import pytest

from lth_core import ConfigError, preset
from lth_core.costs import costs, costs_of_networks

SMALL = preset("lenet_300_100", profile="smoke")
"""Rewinds 0 and 20 of 120 iterations, two levels, all methods at the second, two orders, one replicate."""


def test_one_dense_run_serves_every_rewinding_iteration_and_nothing_before_k_is_repeated():
    row = costs(SMALL).loc["stability"]
    # a dense run, two levels of IMP, the second in another order, random pruning in two, a reinitialised ticket
    each = 1 + 2 + 1 + 2 + 1
    repetition = 1
    assert row["trainings, one by one"] == 2 * each + repetition
    assert row["trainings, here"] == 2 * each + repetition - 1
    assert row["iterations, one by one"] == (2 * each + repetition) * 120
    assert row["iterations, here"] == (each + repetition) * 120 + (2 + 1 + 2) * 100 + 120
    assert row["share of the iterations"] == pytest.approx(1_580 / 1_800, abs=0.005)


def test_a_reinitialised_ticket_can_be_counted_for_what_remains():
    full, remaining = (costs(SMALL.updated(reinit_length=length)).loc["stability"] for length in ("full", "remaining"))
    assert full["iterations, here"] - remaining["iterations, here"] == 20


def test_parts_share_what_they_have_in_common():
    table = costs(SMALL)
    parts = table.drop(index="all of it")
    together = table.loc["all of it"]
    assert together["trainings, one by one"] == parts["trainings, one by one"].sum()
    # the dense run and two levels of IMP at k = 0, the second's controls and its repetition, are in all three parts
    assert together["trainings, here"] < parts["trainings, here"].sum() - 2 * 5


def test_replicates_do_not_count():
    pd.testing.assert_frame_equal(costs(SMALL.updated(replicates=7)), costs(SMALL))


def test_every_network_is_listed_and_an_unknown_profile_is_refused():
    table = costs_of_networks("smoke")
    assert list(dict.fromkeys(table.index.get_level_values("network"))) == ["LeNet-300-100", "ResNet-20", "VGG-19"]
    with pytest.raises(ConfigError, match="'gigantic'"):
        costs_of_networks("gigantic")
