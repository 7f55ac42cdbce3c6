"""Claims are judged by the rule that their row states; every verdict here is computed by hand."""

import math

import pandas as pd
import pytest
from conftest import Place, provenance_of, records_of

from lth_study import SettingError, preset
from lth_study.records import project_folder, results_folder, write
from lth_study.records import read as read_records
from lth_study.report.claim_tables import counts, power_table, readable
from lth_study.report.claims import judge, judged, read
from lth_study.settings import Setting

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
    """So do its quotients, whose bounds are quotients. What is shown says which interval it is, and ends with it."""
    found, _, shown = judge(around(mean), test, low, high)
    bounds = [None if bound is None else math.exp(bound) for bound in (low, high)]
    of_quotients, _, quotients = judge(around(mean), test, *bounds, ratio=True)
    assert found == of_quotients == verdict
    interval, half = ("", 2.4841) if test == "superior" else ("90%: ", 1.6859)
    ends = mean - half, mean + half
    assert shown == f"{mean:+.2f} ({interval}{ends[0]:+.2f} to {ends[1]:+.2f})"
    assert quotients.startswith(f"{math.exp(mean):.2f} ({interval}")


@pytest.mark.parametrize(
    ("mean", "test", "low", "high", "t"),
    [
        (2.0, "superior", 0.0, None, 2.0),
        (-2.0, "superior", 0.0, None, 2.0),
        (1.0, "not inferior", -0.2, None, 1.2),
        (0.5, "equivalent", -2.0, 3.0, 2.5),
        (0.5, "equivalent", -2.0, 1.5, 1.0),
    ],
)
def test_the_p_value_is_two_sided_and_by_the_nearest_bound(
    mean: float, test: str, low: float, high: float | None, t: float
):
    """By Student's t with two degrees of freedom; `t` is the distance to the nearest bound, over the deviation of 1."""
    t *= math.sqrt(3)
    assert judge(around(mean), test, low, high)[1] == pytest.approx(2 * (0.5 - t / (2 * math.sqrt(2 + t * t))))


@pytest.mark.parametrize("test", ["superior", "not inferior"])
def test_two_replicates_decide_nothing_even_if_they_agree(test: str):
    assert judge(pd.Series([5.0, 5.0]), test, 0.0) == ("undecided", 1.0, judge(pd.Series([5.0, 5.0]), test, 0.0)[2])
    assert judge(pd.Series([5.0, 5.0, 5.0]), test, 0.0)[0] == "supported"


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
    ties = pd.concat([values, pd.Series([0.0] * 5)])  # neither for nor against
    assert judge(ties, "signs", 0.0)[:2] == (found, p)


def test_the_committed_table_names_settings_and_levels_that_exist_and_rows_of_a_claim_differ_in_measure_alone():
    table, common = read(), dict[str, set[tuple[str, ...]]]()
    shared = ("network", "recipe", "profile", "dataset", "settings", "text", "effect", "levels", "test", "replicates")
    for claim in table:
        assert claim.setting(claim.dataset, {}).profile == claim.profile
        deepest = max(extent.levels for extent in preset(claim.network, claim.recipe, claim.profile).extents.values())
        assert 0 <= min(claim.at) <= max(claim.at) <= max(deepest, 13), claim.claim
        assert claim.about in ("paper", "later", "study")
        assert (claim.about != "study") == bool(claim.source), claim.claim
        assert claim.fixed >= "2026-11-27"
        common.setdefault(claim.claim, set()).add(tuple(getattr(claim, name) for name in shared))
    assert len(common) > 100
    assert {len(each) for each in common.values()} == {1}


def test_claims_were_fixed_before_anything_was_recorded_on_the_original_images():
    fixed = {claim.fixed for claim in read() if claim.dataset == "cifar10"}
    for file in (project_folder() / "results").glob("*-cifar10-*/provenance.csv"):
        assert pd.read_csv(file)["finished"].min() >= min(fixed), file


# The judge on a results folder of its own

SETTING = preset("resnet20", profile="laptop").setting.updated(dataset="cifar10")
DEVICE, ANOTHER = "AMD EPYC (AVX2)", "Intel Xeon (AVX512)"
STABLE = "random_pruning@0 - imp@0"
ABOUT = {"about": "paper", "source": "Figure 3", "network": "resnet20", "recipe": "standard", "profile": "laptop"}
ABOUT |= {"dataset": "cifar10", "settings": "", "text": "", "measure": "test_accuracy", "effect": "imp@0 - dense"}
ABOUT |= {"levels": "2", "test": "superior", "low": "0", "high": "", "control": "", "replicates": "3", "paper": "+1.0"}
ABOUT |= {"read": "a table", "fixed": "2026-12-01T00:00Z", "change": ""}
"""The columns of a claim, unless a test gives others: IMP is more accurate than the dense network."""

Values = dict[tuple[str, int, str], list[float]]
"""Method, rewind and metric -> a value for each replicate, 1, 2, ..."""
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


def write_claims(*claims: dict[str, str]) -> None:
    results_folder().mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([{"claim": "a"} | ABOUT | claim for claim in claims])
    table.assign(text="Text of " + table["claim"]).to_csv(results_folder() / "claims.csv", index=False)


def write_records(values: Values, setting: Setting = SETTING, finished: str = "2026-12-24T00:00Z") -> None:
    found: list[tuple[Place, str, float]] = []
    for (method, rewind, metric), sample in values.items():
        level, order = 0 if method == "dense" else 2, "0-1" if metric.endswith("data_order") else "0"
        found += [((method, rewind, r, level, order), metric, value) for r, value in enumerate(sample, 1)]
    ends = dict.fromkeys((*place[:4], end) for place, _, _ in found for end in place[4].split("-"))
    made = provenance_of(ends, device=DEVICE, finished=finished)
    write(results_folder(), setting, records_of(setting, found), made)


def verdicts(*claims: dict[str, str]) -> pd.DataFrame:
    write_claims(*claims)
    return judged().set_index("claim")


def test_a_claim_with_a_control_that_passes_too_cannot_fail():
    write_records(GOOD)
    not_inferior = {"test": "not inferior", "low": "-0.2", "control": "random_pruning"}
    table = verdicts(
        not_inferior | {"claim": "rewound", "effect": "imp@5 - dense"},
        not_inferior | {"claim": "initial"},
        not_inferior | {"claim": "without", "effect": "imp@5 - dense", "control": ""},
    )
    assert table["verdict"].to_dict() == {"rewound": "cannot fail here", "initial": "supported", "without": "supported"}
    assert table["note"].eq("").all()


def test_networks_may_be_given_as_a_list_or_as_a_command_line_writes_one():
    write_claims(*({"claim": name, "network": name} for name in ("resnet20", "vgg19", "resnet50")))
    for networks in ("resnet20,vgg19", ["vgg19", "resnet20"]):
        assert judged(networks)["claim"].tolist() == ["resnet20", "vgg19"]
    assert judged("vgg19")["claim"].tolist() == ["vgg19"]
    for wrong in ("resnet18", "resnet20,", "", [], 3, [["vgg19"]]):
        with pytest.raises(SettingError, match="is not a list of networks; expected some of resnet20, vgg19, resnet50"):
            judged(wrong)


def test_two_measures_of_one_claim_are_decided_together():
    both = [{"effect": STABLE, "low": "1", "measure": f"{name}_data_order"} for name in ("l2", "angle")]
    alone = both[0] | {"claim": "l2 alone"}
    write_records(GOOD)
    table = verdicts(*both, alone)
    assert table["verdict"].to_dict() == {"a": "undecided", "l2 alone": "supported"}
    assert table.loc["a", "p"] > table.loc["l2 alone", "p"]
    assert table.loc["a", "here"].startswith("L2 2.02 (")
    assert "; angle 1.0" in table.loc["a", "here"]
    l2, angle = (measure | {"low": "0.5"} for measure in both)
    assert verdicts(l2, angle | {"control": "random_pruning"})["verdict"].tolist() == [
        "cannot fail here"
    ]  # in one of the two
    write_records(GOOD | {("random_pruning", 0, "angle_data_order"): [5.0, 5.5, 6.1]})  # decided the opposite way
    assert verdicts(*both)[["verdict", "p", "q"]].to_numpy().tolist() == [["undecided", 1.0, 1.0]]


def test_p_values_are_corrected_for_all_claims_that_were_judged():
    """Benjamini and Hochberg by hand; "d" is not recorded and does not count."""
    write_records(GOOD)
    effects = {"a": "imp@0 - dense", "b": "imp@5 - dense", "c": "random_pruning@0 - imp@5", "d": "imp@77 - dense"}
    table = verdicts(*({"claim": name, "effect": effect} for name, effect in effects.items()))
    names = sorted("abc", key=lambda name: table.loc[name, "p"])
    first, second, third = table.loc[names, "p"]
    expected = [min(3 * first, 1.5 * second, third), min(1.5 * second, third), third]
    assert first < second < third
    assert table.loc[names, "q"].tolist() == pytest.approx(expected)
    assert math.isnan(table.loc["d", "q"])
    assert table.loc["d", "verdict"] == "not run"


def test_replicates_finished_before_the_claim_was_fixed_are_exploratory_and_missing_ones_are_counted():
    write_records({name: sample[:2] for name, sample in GOOD.items()}, finished="2026-11-01T00:00Z")
    table = verdicts({})
    assert table["note"].tolist() == ["exploratory; 2 of 3 replicates"]
    assert counts(table).loc[("the paper's claims", "exploratory")].sum() == 1
    fixed_early = verdicts({"fixed": "2026-10-01T00:00Z"})
    assert counts(fixed_early).loc[("the paper's claims", "unfinished")].sum() == 1


def test_more_replicates_than_were_fixed_do_not_count():
    write_records({name: [*sample, 500.0 if name[0] == "imp" else 1.0] for name, sample in GOOD.items()})
    found = verdicts({}).loc["a"]
    assert (found["n"], found["here"].split(" (")[0]) == (3, "+0.13")


def test_as_long_as_the_jpeg_copy_has_more_replicates_it_is_judged_as_exploratory():
    asked = {}, {"claim": "b", "effect": "dense - dense{dataset=cifar10_jpeg}"}
    write_records(GOOD, SETTING.updated(dataset="cifar10_jpeg"))
    table = verdicts(*asked)
    assert (table.loc["a", "note"], table.loc["b", "verdict"]) == ("exploratory: CIFAR-10 (JPEG)", "not run")
    write_records({name: sample[:2] for name, sample in GOOD.items()})
    assert verdicts({}).loc["a", ["note", "n"]].tolist() == ["exploratory: CIFAR-10 (JPEG)", 3]
    write_records({name: [v + 1 for v in sample] for name, sample in GOOD.items()})
    table = verdicts(*asked)
    assert (table.loc["a", "note"], table.loc["b", "here"]) == ("", "+1.00 (+1.00 to +1.00)")


@pytest.mark.parametrize(
    ("replicates", "note", "verdict"),
    [([2], "2 of 3 replicates; 1 dropped", "undecided"), ([1, 2, 3], "3 dropped", "not run")],
)
def test_replicates_of_several_kinds_of_processor_are_dropped_and_said(replicates: list[int], note: str, verdict: str):
    write_records(GOOD)
    found, made = read_records(results_folder(), SETTING)
    made.loc[(made["method"] == "imp") & made["replicate"].isin(replicates), "device"] = ANOTHER
    write(results_folder(), SETTING, found, made)
    shown = verdicts({}).loc["a", ["note", "verdict", "recorded_on"]].tolist()
    assert shown == [f"{note}: several kinds of processor", verdict, "cifar10"]


def test_a_control_that_is_not_recorded_and_a_training_that_diverged_are_said():
    write_records({place: sample for place, sample in GOOD.items() if place[0] != "random_pruning"})
    assert verdicts({"control": "random_pruning"})["note"].tolist() == ["its control is not recorded"]
    found, made = read_records(results_folder(), SETTING)
    ticket = (found["method"] == "imp") & (found["level"] == 2) & (found["metric"] == "test_accuracy")
    for gone, said in (([3], ["undecided", "2 of 3 replicates; 1 diverged"]), ([2, 3], ["not run", "2 diverged"])):
        lost = ticket & found["replicate"].isin(gone)
        write(results_folder(), SETTING, found.assign(metric=found["metric"].where(~lost, "diverged")), made)
        assert verdicts({}).loc["a", ["verdict", "note"]].tolist() == said


def test_fewer_than_six_replicates_cannot_be_counted_by_signs():
    write_claims({"test": "signs", "replicates": "5"})
    with pytest.raises(ValueError, match="line 2: 5 replicates never decide by signs; expected 6 or more"):
        read()


@pytest.mark.parametrize(
    ("test", "low", "high"), [("equivalent", "0", ""), ("superior", "0", "1"), ("better", "0", ""), ("signs", "", "")]
)
def test_a_row_that_cannot_be_judged_is_refused_by_its_line(test: str, low: str, high: str):
    write_claims({}, {"claim": "b", "test": test, "low": low, "high": high})
    with pytest.raises(ValueError, match=rf"claims.csv, line 3: test '{test}' with low="):
        read()


def test_a_page_has_signs_and_classes_and_no_network_where_there_is_one():
    write_records(GOOD)
    write_claims({"claim": "a<b"})
    page = readable(judged())
    assert page.table.index.names == ["claim"]
    text = page._repr_html_()
    assert "Text of a&lt;b" in text
    assert '<span class="verdict undecided">? undecided</span>' in text


def test_what_replicates_can_show_is_told():
    """With three replicates an effect of 3.3 standard deviations, with five 1.7, with eight 1.2."""
    assert power_table().to_numpy().tolist() == [[3.3, "no"], [1.7, "no"], [1.2, "yes"]]
