"""Claims are judged by the rule that their row states; every verdict here is computed by hand."""

import math
from pathlib import Path

import pandas as pd
import pytest

from lth_study import preset
from lth_study.records import COLUMNS, PROVENANCE, project_folder, results_folder, write
from lth_study.report import claims
from lth_study.report.claim_tables import counts, power_table, readable
from lth_study.report.claims import judge, judged, read

SPREAD = [-1.0, 0.0, 1.0]
"""Three replicates with mean 0 and deviation 1: half-widths 2.4841 at 95% and 1.6859 at 90%."""


def around(mean: float) -> pd.Series:
    return pd.Series([mean + each for each in SPREAD], index=[1, 2, 3])


@pytest.mark.parametrize(
    ("test", "low", "high", "mean", "verdict"),
    [
        ("superior", 0.0, None, 2.5, "supported"),
        ("superior", 0.0, None, 2.4, "undecided"),
        ("superior", 0.0, None, -2.5, "contradicted"),
        ("superior", None, 0.0, -2.5, "supported"),
        ("superior", None, 0.0, -2.4, "undecided"),
        ("superior", None, 0.0, 2.5, "contradicted"),
        ("not inferior", -0.2, None, 1.5, "supported"),  # 1.5 - 1.69 > -0.2
        ("not inferior", -0.2, None, 1.4, "undecided"),
        ("not inferior", -0.2, None, -1.9, "contradicted"),
        ("equivalent", -1.7, 1.7, 0.0, "supported"),
        ("equivalent", -1.6, 1.6, 0.0, "undecided"),
        ("equivalent", -1.7, 9.0, 0.1, "supported"),
        ("equivalent", -9.0, 1.7, 0.1, "undecided"),
        ("equivalent", -1.0, 1.0, 2.7, "contradicted"),
        ("equivalent", -1.0, 1.0, -2.6, "undecided"),
    ],
)
def test_a_verdict_follows_from_the_interval(
    test: str, low: float | None, high: float | None, mean: float, verdict: str
):
    assert judge(around(mean), test, low, high)[0] == verdict


def test_the_p_value_is_two_sided_for_what_is_superior_and_the_larger_of_two_for_what_is_equivalent():
    def above(t: float) -> float:  # Student's t with two degrees of freedom
        return 0.5 - t / (2 * math.sqrt(2 + t * t))

    root = math.sqrt(3)
    assert judge(around(2.0), "superior", 0.0)[1] == pytest.approx(2 * above(2 * root))
    assert judge(around(-2.0), "superior", 0.0)[1] == pytest.approx(2 * above(2 * root))
    assert judge(around(1.0), "not inferior", -0.2)[1] == pytest.approx(above(1.2 * root))
    assert judge(around(0.5), "equivalent", -2.0, 3.0)[1] == pytest.approx(above(2.5 * root))
    assert judge(around(0.5), "equivalent", -2.0, 1.5)[1] == pytest.approx(above(1.0 * root))


def test_what_is_shown_says_which_interval_it_is():
    assert judge(around(0.0), "superior", 0.0)[2] == "+0.00 (-2.48 to +2.48)"
    assert judge(around(0.0), "equivalent", -1.0, 1.0)[2] == "+0.00 (-1.69 to +1.69) 90%"


def test_quotients_have_their_bounds_as_quotients():
    values = pd.Series([math.log(1.9), math.log(2.0), math.log(2.1)])
    verdict, _, shown = judge(values, "superior", 1.0, ratio=True)
    assert (verdict, shown) == ("supported", "2.00 (1.76 to 2.26)")
    assert judge(values, "superior", 2.0, ratio=True)[0] == "undecided"
    assert judge(values, "equivalent", 0.8, 1.25, ratio=True)[0] == "contradicted"


@pytest.mark.parametrize(
    ("beyond", "count", "verdict"),
    [(6, 6, "supported"), (5, 5, "undecided"), (0, 6, "contradicted"), (3, 6, "undecided"), (8, 9, "supported")],
)
def test_signs_are_counted_by_the_binomial_test(beyond: int, count: int, verdict: str):
    """Two-sided: 2 / 2^6 = 0.031, 2 / 2^5 = 0.0625, and 8 of 9 is 2 * 10 / 2^9 = 0.039."""
    values = pd.Series([5.0] * beyond + [-70.0] * (count - beyond))
    found, p, shown = judge(values, "signs", 0.0)
    assert found == verdict
    assert shown.startswith(f"{beyond} of {count} (")
    if (beyond, count) == (8, 9):
        assert p == pytest.approx(20 / 512)


def test_the_committed_table_can_be_read_and_names_settings_that_exist():
    table = read()
    assert len({claim.claim for claim in table}) > 100
    for claim in table:
        assert claim.setting(claim.dataset, {}).profile == claim.profile
        deepest = max(extent.levels for extent in preset(claim.network, claim.recipe, claim.profile).extents.values())
        for level in claim.at:
            assert 0 <= level <= max(deepest, 13), claim.claim
        assert claim.about in ("paper", "study")
        assert (claim.about == "paper") == bool(claim.source), claim.claim
        assert claim.fixed >= "2026-11-27"


def test_rows_of_one_claim_differ_in_their_measure_and_numbers_alone():
    fields = ("network", "recipe", "profile", "dataset", "settings", "text", "effect", "levels", "test", "replicates")
    same: dict[str, set[tuple[str, ...]]] = {}
    for claim in read():
        same.setdefault(claim.claim, set()).add(tuple(getattr(claim, name) for name in fields))
    assert all(len(each) == 1 for each in same.values())


# The judge on a results folder of its own

HEADER = "claim,about,source,network,recipe,profile,dataset,settings,text,measure,effect,levels,test,low,high,control,"
HEADER += "replicates,paper,read,fixed,change"
SETTING = preset("resnet20", profile="laptop").setting.updated(dataset="cifar10")
FIXED = "2026-12-01T00:00Z"
DEVICE = "AMD EPYC (AVX2)"


def claim_row(name: str, measure: str, effect: str, test: str, low: str, high: str, control: str = "") -> str:
    about = f"{name},paper,Figure 3,resnet20,standard,laptop,cifar10,,Text of {name},{measure},{effect}"
    return f"{about},2,{test},{low},{high},{control},3,+1.0,a table,{FIXED},"


def write_claims(*rows: str) -> None:
    results_folder().mkdir(parents=True, exist_ok=True)
    (results_folder() / "claims.csv").write_text("\n".join([HEADER, *rows]) + "\n")


Values = dict[tuple[str, int, str], list[float]]
"""Method, rewind and metric -> a value for each replicate, 1, 2, ..."""


def write_records(values: Values, setting=SETTING, finished: str = "2026-12-24T00:00Z", device: str = DEVICE) -> None:
    about = [setting.digest(), setting.network, setting.recipe, setting.profile, setting.dataset]
    rows, made = [], {}
    for (method, rewind, metric), sample in values.items():
        level = 0 if method == "dense" else 2
        for replicate, value in enumerate(sample, 1):
            order = "0-1" if metric.endswith("data_order") else "0"
            rows.append([*about, method, rewind, replicate, level, 0.64, order, metric, value])
            for end in order.split("-"):
                key = (method, rewind, replicate, level, end)
                made[key] = [*key, 10, 1.0, device, "0", "2", "3", "feed", finished, 1]
                made.setdefault(("dense", 0, replicate, 0, "0"), ["dense", 0, replicate, 0, "0", *made[key][5:]])
    write(
        results_folder(),
        setting,
        pd.DataFrame(rows, columns=COLUMNS),
        pd.DataFrame(made.values(), columns=PROVENANCE).astype({"workers": "Int64"}),
    )


GOOD: Values = {
    ("dense", 0, "test_accuracy"): [80.0, 81.0, 82.0],
    ("imp", 0, "test_accuracy"): [80.1, 81.2, 82.1],
    ("imp", 5, "test_accuracy"): [90.0, 91.5, 92.0],
    ("random_pruning", 0, "test_accuracy"): [70.0, 71.0, 72.5],
    ("random_pruning", 5, "test_accuracy"): [91.0, 91.0, 92.0],
    ("imp", 0, "l2_data_order"): [10.0, 11.0, 12.0],
    ("random_pruning", 0, "l2_data_order"): [20.0, 22.5, 24.0],
    ("imp", 0, "angle_data_order"): [10.0, 11.0, 12.0],
    ("random_pruning", 0, "angle_data_order"): [11.0, 10.0, 13.0],
}


def test_a_claim_with_a_control_that_passes_too_cannot_fail():
    write_claims(
        claim_row("rewound", "test_accuracy", "imp@5 - dense", "not inferior", "-0.2", "", "random_pruning"),
        claim_row("initial", "test_accuracy", "imp@0 - dense", "not inferior", "-0.2", "", "random_pruning"),
        claim_row("without", "test_accuracy", "imp@5 - dense", "not inferior", "-0.2", ""),
    )
    write_records(GOOD)
    table = judged().set_index("claim")
    assert table["verdict"].to_dict() == {"rewound": "cannot fail here", "initial": "supported", "without": "supported"}
    assert table["note"].eq("").all()


def test_two_measures_of_one_claim_are_decided_together():
    effect = "random_pruning@0 - imp@0"
    write_claims(
        claim_row("stable", "l2_data_order", effect, "superior", "1", ""),
        claim_row("stable", "angle_data_order", effect, "superior", "1", ""),
        claim_row("l2 alone", "l2_data_order", effect, "superior", "1", ""),
    )
    write_records(GOOD)
    table = judged().set_index("claim")
    assert table["verdict"].to_dict() == {"stable": "undecided", "l2 alone": "supported"}
    assert table.loc["stable", "p"] > table.loc["l2 alone", "p"]
    assert table.loc["stable", "here"].startswith("L2 2.02 (")
    assert "; angle 1.0" in table.loc["stable", "here"]


def test_measures_decided_in_opposite_ways_leave_a_claim_undecided():
    write_claims(
        claim_row("both", "l2_data_order", "random_pruning@0 - imp@0", "superior", "1", ""),
        claim_row("both", "angle_data_order", "random_pruning@0 - imp@0", "superior", "1", ""),
    )
    write_records(GOOD | {("random_pruning", 0, "angle_data_order"): [5.0, 5.5, 6.1]})
    table = judged()
    assert (table.loc[0, "verdict"], table.loc[0, "p"], table.loc[0, "q"]) == ("undecided", 1.0, 1.0)


def test_p_values_are_corrected_for_all_claims_that_were_judged(monkeypatch: pytest.MonkeyPatch):
    """Benjamini and Hochberg by hand: 0.01, 0.02, 0.04 of three are 0.03, 0.03, 0.04."""
    names = ("a", "b", "c", "never recorded")
    write_claims(*(claim_row(name, "test_accuracy", f"imp@{k} - dense", "superior", "0", "")
                   for name, k in zip(names, (0, 5, 0, 77), strict=True)))  # fmt: skip
    write_records(GOOD)
    answers = iter([0.04, 0.01, 0.02])
    monkeypatch.setattr(claims, "judge", lambda *_, **__: ("supported", next(answers), "shown"))
    table = judged().set_index("claim")
    assert table["q"][:3].to_dict() == pytest.approx({"a": 0.04, "b": 0.03, "c": 0.03})
    assert math.isnan(table.loc["never recorded", "q"])
    assert table.loc["never recorded", "verdict"] == "not run"


def test_replicates_finished_before_the_claim_was_fixed_are_exploratory_and_missing_ones_are_counted():
    write_claims(claim_row("early", "test_accuracy", "imp@0 - dense", "superior", "", "0"))
    write_records({name: sample[:2] for name, sample in GOOD.items()}, finished="2026-11-01T00:00Z")
    table = judged()
    assert table.loc[0, "note"] == "exploratory; 2 of 3 replicates"
    assert counts(table).loc[("the paper's claims", "exploratory")].sum() == 1


def test_more_replicates_than_were_fixed_do_not_count():
    write_claims(claim_row("fixed", "test_accuracy", "imp@0 - dense", "superior", "0", ""))
    more = {name: [*sample, 500.0 if name[0] == "imp" else 1.0] for name, sample in GOOD.items()}
    write_records(more)
    assert judged().loc[0, "n"] == 3
    assert judged().loc[0, "here"].startswith("+0.13 (")


def test_until_the_original_images_are_recorded_their_jpeg_copy_is_judged_as_exploratory():
    write_claims(
        claim_row("a", "test_accuracy", "imp@0 - dense", "superior", "0", ""),
        claim_row("b", "test_accuracy", "dense - dense{dataset=cifar10_jpeg}", "superior", "0", ""),
    )
    write_records(GOOD, SETTING.updated(dataset="cifar10_jpeg"))
    table = judged().set_index("claim")
    assert table.loc["a", "note"] == "exploratory: CIFAR-10 (JPEG)"
    assert table.loc["b", "verdict"] == "not run"
    write_records({name: [v + 1 for v in sample] for name, sample in GOOD.items()})
    table = judged().set_index("claim")
    assert table.loc["a", "note"] == ""
    assert table.loc["b", "here"] == "+1.00 (+1.00 to +1.00)"


def test_replicates_of_several_kinds_of_processor_are_dropped_and_said(tmp_path: Path):
    write_claims(claim_row("a", "test_accuracy", "imp@0 - dense", "superior", "0", ""))
    write_records(GOOD)
    file = results_folder() / SETTING.name / "provenance.csv"
    made = pd.read_csv(file)
    made.loc[(made["method"] == "imp") & (made["replicate"] == 2), "device"] = "Intel Xeon (AVX512)"
    made.to_csv(file, index=False)
    assert judged().loc[0, "note"] == "2 of 3 replicates; 1 dropped: several kinds of processor"
    made.loc[made["method"] == "imp", "device"] = "Intel Xeon (AVX512)"
    made.to_csv(file, index=False)
    table = judged()
    assert (table.loc[0, "verdict"], table.loc[0, "recorded_on"]) == ("not run", "cifar10")
    assert table.loc[0, "note"] == "3 dropped: several kinds of processor"


@pytest.mark.parametrize(
    ("test", "low", "high"), [("equivalent", "0", ""), ("superior", "0", "1"), ("better", "0", ""), ("signs", "", "")]
)
def test_a_row_that_cannot_be_judged_is_refused_by_its_line(test: str, low: str, high: str):
    write_claims(
        claim_row("a", "test_accuracy", "imp@0", "superior", "0", ""),
        claim_row("b", "test_accuracy", "imp@0", test, low, high),
    )
    with pytest.raises(ValueError, match=rf"claims.csv, line 3: test '{test}' with low="):
        read()


def test_a_page_has_signs_and_classes_and_names_networks_where_there_are_several():
    write_claims(claim_row("a<b", "test_accuracy", "imp@0 - dense", "superior", "0", ""))
    write_records(GOOD)
    page = readable(judged())
    assert page.table.index.names == ["claim"]
    text = page._repr_html_()
    assert "Text of a&lt;b" in text
    assert '<span class="verdict undecided">? undecided</span>' in text


def test_what_replicates_can_show_is_told():
    """With three replicates an effect of 3.3 standard deviations, with five 1.7, with eight 1.2."""
    table = power_table()
    assert table.iloc[:, 0].tolist() == [3.3, 1.7, 1.2]
    assert table.iloc[:, 1].tolist() == ["no", "no", "yes"]


def test_claims_were_fixed_before_anything_was_recorded_on_the_original_images():
    fixed = {claim.fixed for claim in read() if claim.dataset == "cifar10"}
    for file in (project_folder() / "results").glob("*-cifar10-*/provenance.csv"):
        assert pd.read_csv(file)["finished"].min() >= min(fixed), file
