"""Verdicts against intervals worked out by hand."""

import math

import pandas as pd
import pytest

from lth_core import records
from lth_core.verdicts import difference, judge, log_ratio, verdict_table

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
