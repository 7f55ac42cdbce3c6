"""Verdicts against intervals worked out by hand."""

import html
import math
import re

import pandas as pd
import pytest

from lth_core.report.verdicts import (
    SIGNS,
    Marked,
    Verdict,
    difference,
    judge,
    log_ratio,
    per_subnetwork,
    rank_correlation,
    verdict_table,
)
from lth_core.study import records

T_95_TWO_DEGREES = 4.302652729911275  # 97.5% quantile of Student's t with two degrees of freedom, from a printed table


def rows(values: dict[tuple[str, int], list[float]], metric: str = "test_accuracy") -> pd.DataFrame:
    """Records with a value for each replicate of each (method, level)."""
    table = [
        ["d", "n", "r", "p", "s", method, 0, replicate, level, 0.1, "0", metric, value]
        for (method, level), sample in values.items()
        for replicate, value in enumerate(sample, 1)
    ]
    return pd.DataFrame(table, columns=records.COLUMNS)


TICKET, DENSE = {"method": "imp", "level": 3}, {"method": "dense"}


def test_the_interval_is_students_t_over_replicates():
    sample = pd.Series([0.1, 0.2, 0.6])
    verdict = judge("claim", sample, paper="", above=0)
    half = T_95_TWO_DEGREES * math.sqrt(((0.2**2 + 0.1**2 + 0.3**2) / 2) / 3)
    assert verdict.interval == f"{0.3 - half:+.2f} to {0.3 + half:+.2f}"
    assert (verdict.ours, verdict.replicates) == ("+0.30", 3)


@pytest.mark.parametrize(
    ("sample", "word"),
    [
        ([0.5, 0.6, 0.7], "supported"),
        ([-0.5, -0.6, -0.7], "not supported"),
        ([-0.5, 0.1, 0.7], "undecided"),
        ([0.5], "not yet tested at this scale"),
        ([], "not yet tested at this scale"),
        ([0.4, 0.4, 0.4], "supported"),
    ],
)
def test_a_claim_is_supported_when_the_whole_interval_lies_where_it_says(sample: list[float], word: str):
    assert judge("claim", pd.Series(sample, dtype=float), paper="", above=0).verdict == word


def test_a_claim_of_no_difference_needs_the_interval_within_both_bounds():
    assert judge("same", pd.Series([0.01, 0.0, 0.02]), paper="", above=-0.2, below=0.2).verdict == "supported"
    assert judge("same", pd.Series([0.5, 0.51, 0.52]), paper="", above=-0.2, below=0.2).verdict == "not supported"


def test_what_is_at_the_bound_is_outside():
    assert judge("below", pd.Series([0.0, 0.0, 0.0]), paper="", below=0).verdict == "not supported"
    assert judge("above", pd.Series([0.0, 0.0, 0.0]), paper="", above=0).verdict == "not supported"


def test_a_difference_is_paired_by_replicate_and_leaves_out_unpaired_ones():
    table = rows({("imp", 3): [98.0, 97.0, 99.0], ("dense", 0): [97.5, 97.5]})
    assert difference(table, TICKET, DENSE).tolist() == [0.5, -0.5]


def test_a_ratio_is_judged_on_its_own_scale():
    table = rows({("random_pruning", 3): [6.0, 8.0, 4.0], ("imp", 3): [3.0, 4.0, 2.0]}, "l2_data_order")
    sample = log_ratio(table, {"method": "random_pruning"}, TICKET, metric="l2_data_order")
    assert sample.tolist() == pytest.approx([math.log(2)] * 3)
    assert judge("ratio", sample, paper="", above=1, ratio=True).ours == "2.00x"


def test_accuracy_is_that_of_the_first_data_order():
    table = rows({("imp", 3): [98.0, 97.0], ("dense", 0): [97.0, 97.0]})
    other = table.assign(order="1", value=0.0)
    assert difference(pd.concat([table, other]), TICKET, DENSE).tolist() == [1.0, 0.0]


def test_the_table_has_a_row_for_each_verdict():
    verdicts = [judge(claim, pd.Series([1.0, 2.0]), paper="", above=0) for claim in ("a", "b")]
    assert verdict_table(verdicts).index.tolist() == ["a", "b"]
    assert list(verdict_table([]).columns) == list(verdict_table(verdicts).columns)


def subnetworks(values: dict[tuple[str, int, int], tuple[list[float], float]]) -> pd.DataFrame:
    """Records at level 3 of (method, rewind, replicate): distances between pairs of orders, and an accuracy."""
    table = []
    for (method, rewind, replicate), (distances, accuracy) in values.items():
        about = ["d", "n", "r", "p", "s", method, rewind, replicate, 3, 0.5]
        table += [[*about, f"0-{n}", "l2_data_order", distance] for n, distance in enumerate(distances, 1)]
        table.append([*about, "0", "test_accuracy", accuracy])
        table.append([*about, "1", "test_accuracy", -100 * accuracy])
    return pd.DataFrame(table, columns=records.COLUMNS)


METRICS = ["l2_data_order", "test_accuracy"]


def test_a_subnetwork_is_a_row_with_its_mean_distance_and_the_accuracy_of_the_first_data_order():
    table = subnetworks({("random_pruning", 0, 1): ([4.0], 80.0), ("imp", 5, 2): ([1.0, 3.0], 90.0)})
    assert per_subnetwork(table, level=3, metrics=METRICS).to_dict("records") == [
        {"method": "imp", "rewind": 5, "replicate": 2, "l2_data_order": 2.0, "test_accuracy": 90.0},
        {"method": "random_pruning", "rewind": 0, "replicate": 1, "l2_data_order": 4.0, "test_accuracy": 80.0},
    ]


def test_subnetworks_are_those_of_the_level_that_have_every_metric():
    table = subnetworks({("imp", 0, 1): ([1.0], 90.0), ("imp", 0, 2): ([], 90.0), ("dense", 0, 1): ([1.0], 90.0)})
    assert per_subnetwork(table, level=3, metrics=METRICS)["replicate"].tolist() == [1]
    assert len(per_subnetwork(table, level=3, metrics=["test_accuracy"])) == 2
    assert len(per_subnetwork(table, level=2, metrics=METRICS)) == 0


def test_a_rank_correlation_is_spearmans_over_rewinding_iterations_in_each_replicate():
    curves = {
        ("imp", 1): [(9.0, 90.0), (3.0, 92.0), (2.0, 91.0), (1.0, 93.0)],
        ("imp", 2): [(1.0, 50.0), (2.0, 49.0), (4.0, 40.0), (8.0, 10.0)],
        ("imp", 3): [(1.0, 50.0), (2.0, 60.0)],
        ("random_pruning", 1): [(1.0, 50.0), (2.0, 51.0), (3.0, 70.0)],
    }
    table = subnetworks(
        {
            (method, 10 * n, replicate): ([distance], accuracy)
            for (method, replicate), curve in curves.items()
            for n, (distance, accuracy) in enumerate(curve)
        }
    )
    # ranks of replicate 1: 4, 3, 2, 1 and 1, 3, 2, 4; the squares of their differences add up to 9 + 0 + 0 + 9
    expected = {1: 1 - 6 * 18 / (4 * (4**2 - 1)), 2: -1.0}
    assert rank_correlation(table, level=3, metric="l2_data_order").to_dict() == pytest.approx(expected)
    assert len(rank_correlation(table.iloc[:0], level=3, metric="l2_data_order")) == 0


def test_a_marked_table_has_every_verdict_with_its_sign_and_class_and_is_otherwise_the_table():
    words = [*SIGNS]
    verdicts = [Verdict(f"a < {word}", "1", "2", "", 3, word) for word in words]
    table = verdict_table(verdicts)
    shown = Marked(table)._repr_html_()
    rows = [re.sub("<[^>]*>", "", row).split("\n") for row in re.findall("<tr>(.*?)</tr>", shown, re.DOTALL)]
    cells = [[html.unescape(cell.strip()) for cell in row if cell.strip()] for row in rows]
    assert cells[1:] == [[f"a < {word}", "1", "2", "3", f"{SIGNS[word]} {word}"] for word in words]
    classes = re.findall(r'class="verdict ([^"]*)"', shown)
    assert classes == ["supported", "not-supported", "undecided", "not-yet-tested"]
    assert repr(Marked(table)) == repr(table)
