"""The plots: every line goes through the means of its samples, and every point is a record's."""

from collections.abc import Callable, Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT, paper_values
from matplotlib import pyplot as plt

from lth_study.report import plots

mpl.use("agg")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def points(axes: mpl.axes.Axes) -> dict[str, list[tuple[float, float]]]:
    """The lines of a plot by their legend's label."""
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    lines = [line for line in axes.lines if len(line.get_xdata())]
    return {
        name: [(round(float(x), 6), round(float(y), 6)) for x, y in line.get_xydata()]
        for name, line in zip(legend, lines, strict=False)
    }


@pytest.fixture
def initial(table: pd.DataFrame) -> pd.DataFrame:
    """The records of the dense networks and of those rewound to 0."""
    return table[table["rewind"] == 0]


def with_a_low_recipe(table: pd.DataFrame) -> pd.DataFrame:
    """The same records, and half of every value for a second recipe."""
    return pd.concat([table, table.assign(recipe="low", value=table["value"] / 2)])


RELATIVE = {"IMP": [(64.0, -0.5), (80.0, -0.5), (100.0, 0.0)], "random pruning": [(64.0, -2.5), (80.0, -1.5)]}
"""Accuracies less the dense network's: a point between data orders, a point a level for random pruning."""


def test_accuracy_curves_show_means_over_replicates_and_data_orders(table: pd.DataFrame, initial: pd.DataFrame):
    lines = {"IMP": [(64.0, 97.7), (80.0, 97.7), (100.0, 98.2)], "random pruning": [(64.0, 95.7), (80.0, 96.7)]}
    assert points(plots.accuracy_curves(initial).axes[0]) == lines
    of_both = {f"{name}, k = {k}": line for name, line in lines.items() for k in (0, 20)}
    assert points(plots.accuracy_curves(table).axes[0]) == of_both


def test_every_replicate_has_a_line_where_that_is_asked_for(table: pd.DataFrame, initial: pd.DataFrame):
    accuracy = plots.accuracy_curves(initial[initial["method"] != "random_pruning"], each=True).axes[0]
    stability = plots.stability_curves(table, level=2, metrics=["l2_data_order"], each=True).axes[0]
    for axes, expected in (
        (accuracy, [(97.5 + r / 10, 97.5 + r / 10, 98.0 + r / 10) for r in (1, 2, 3)]),
        (stability, [(10.0 + loss + r,) * 2 for loss in (0, 1) for r in (1, 2, 3)]),
    ):
        drawn = sorted(tuple(map(float, line.get_ydata())) for line in axes.lines if len(line.get_xdata()))
        np.testing.assert_allclose(drawn, sorted(expected))


METRIC = "l2_data_order"
NOTHING: dict[str, Callable[[pd.DataFrame], object]] = {
    "nothing is recorded of the accuracy, since 3 trainings diverged": lambda table: plots.accuracy_curves(lost(table)),
    "nothing is recorded for the panel 'a', since 3 trainings": lambda table: plots.accuracy_panels({"a": lost(table)}),
    "nothing is recorded for the panel 'b', since 3": lambda table: plots.distance_panels({"b": lost(table)}, METRIC),
    "nothing is recorded for the panel 'c'": lambda table: plots.distance_panels({"c": table[:0]}, METRIC),
    "nothing is recorded at level 3": lambda table: plots.stability_curves(table, level=3, metrics=[METRIC]),
    "nothing is recorded at level 2, rewound to 5": lambda table: plots.side_by_side(
        table, level=2, rewind=5, metrics=[METRIC]
    ),
    "nothing is recorded of subnetworks rewound to 5": lambda table: plots.level_curves(
        table, rewind=5, metrics=[METRIC]
    ),
}


def lost(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["method"] == "dense"].assign(metric="diverged")


@pytest.mark.parametrize("why", NOTHING)
def test_a_figure_of_nothing_is_an_error_that_says_why(why: str, table: pd.DataFrame):
    with pytest.raises(ValueError, match=f"^{why}"):
        NOTHING[why](table)


def test_a_panel_of_nothing_says_so(table: pd.DataFrame):
    others, metrics = table[table["metric"] != METRIC], [METRIC, "l2_pruning"]
    for figure in (
        plots.stability_curves(others, level=2, metrics=metrics),
        plots.side_by_side(others, level=2, rewind=0, metrics=metrics),
    ):
        assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [["not recorded"], []]


def test_relative_accuracies_are_differences_to_the_dense_network_of_the_same_replicate(initial: pd.DataFrame):
    absent = (initial["replicate"] == 3) & (initial["level"] == 2)
    axes = plots.accuracy_curves(initial[~absent], relative=True).axes[0]
    assert points(axes) == RELATIVE
    assert "dense network" in axes.get_ylabel()
    controls = plots.accuracy_curves(initial[initial["method"] != "imp"], relative=True).axes[0]  # needs no ticket
    assert points(controls)["random pruning"] == RELATIVE["random pruning"]


def test_scales_have_panels_of_their_own_with_axes_that_are_not_shared(initial: pd.DataFrame):
    figure = plots.accuracy_panels({"small": initial, "large": initial[initial["method"] != "random_pruning"]})
    small, large = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["small", "large"]
    assert (points(small), set(points(large))) == (RELATIVE, {"IMP"})
    assert not small.get_shared_y_axes().joined(small, large)


def test_distances_to_the_dense_network_have_panels_too(table: pd.DataFrame):
    tickets = table[(table["method"] == "imp") & (table["replicate"] == 1)]
    figure = plots.distance_panels({"small": tickets, "large": tickets[tickets["rewind"] == 20]}, "l2_pruning")
    small, large = figure.axes
    assert points(small) == {"IMP, k = 0": [(64.0, 21.0), (80.0, 11.0)], "IMP, k = 20": [(64.0, 21.0), (80.0, 11.0)]}
    assert set(points(large)) == {"IMP, k = 20"}
    assert small.get_ylim()[0] == 0
    angles = tickets.assign(metric=tickets["metric"].replace("l2_pruning", "angle_pruning"))
    both = plots.distance_panels({"small": angles, "large": angles.assign(value=2 * angles["value"])}, "angle_pruning")
    assert both.axes[0].get_ylim() == both.axes[1].get_ylim()
    assert "L2 to the dense network" in small.get_ylabel()


def test_recipes_are_told_apart_and_each_is_compared_with_its_own_dense_network(initial: pd.DataFrame):
    lines = points(plots.accuracy_curves(with_a_low_recipe(initial), relative=True).axes[0])
    assert {name: line for name, line in lines.items() if "standard" in name} == {
        f"{name}, standard": line for name, line in RELATIVE.items()
    }
    assert lines["random pruning, low"] == [(64.0, -1.25), (80.0, -0.75)]


def test_recipes_have_a_row_of_stability_panels_each(table: pd.DataFrame):
    both = with_a_low_recipe(table)
    figure = plots.stability_curves(both, level=2, metrics=["l2_data_order", "test_accuracy"])
    assert [axes.get_title() for axes in figure.axes] == ["standard recipe"] * 2 + ["low recipe"] * 2
    assert [points(axes)["IMP"] for axes in figure.axes[::2]] == [[(0, 12), (1, 12)], [(0, 6), (1, 6)]]
    (one,) = plots.stability_curves(table, level=2, metrics=["l2_pruning"]).axes
    assert one.get_title() == ""


def test_recipes_stand_side_by_side_with_the_mean_of_each_method(table: pd.DataFrame):
    both = with_a_low_recipe(table)
    paper = pd.DataFrame(
        [("low", "imp", 9.0), ("low", "random_pruning", 14.0), ("warmup", "imp", 7.0)],
        columns=["recipe", "method", "value"],
    ).assign(metric="l2_pruning", low=8.0, high=15.0)
    metrics = ["l2_pruning", "test_accuracy"]
    stability, accuracy = plots.side_by_side(both, level=2, rewind=0, metrics=metrics, paper=paper).axes
    assert [tick.get_text() for tick in stability.get_xticklabels()] == ["standard", "low"]
    means = [
        list(map(float, line.get_ydata()))
        for line in stability.lines
        if len(line.get_xdata()) == 2 and line.get_marker() in ("o", "X")
    ]
    assert means == [[22.0, 11.0], [23.0, 11.5]]  # IMP, random pruning
    (marks,) = [line for line in stability.lines if line.get_marker() == "D"]
    assert marks.get_xydata().tolist() == [[0.75, 9.0], [1.25, 14.0]]  # no mark for a recipe that is not drawn
    assert [line for line in accuracy.lines if line.get_marker() == "D"] == []
    assert accuracy.get_ylabel() == "test accuracy (%)"


def test_the_papers_curves_are_differences_to_its_dense_network_and_are_told_apart():
    axes = mpl.figure.Figure().subplots()
    plots.draw_paper(axes, paper_values(network="resnet20", figure="fig5", recipe="standard"))
    lines = points(axes)
    assert set(lines) == {"paper: IMP, k = 0", "paper: IMP, k = 500"}
    assert (lines["paper: IMP, k = 0"][0], lines["paper: IMP, k = 0"][-1]) == ((100.0, 0.0), (4.7, -8.0))
    assert lines["paper: IMP, k = 500"][3] == (51.8, 0.26)  # 91.3 less 91.04, where this curve starts
    assert {line.get_color() for line in axes.lines} == {plots.PAPER_COLOR}
    assert len({line.get_linestyle() for line in axes.lines}) == 2


FIGURE_8 = {
    ("resnet50", "imp_one_shot", 6): "one-shot IMP, epoch 6",
    ("resnet50", "random_reinit_one_shot", None): "random reinitialisation",
    ("resnet50", "imp", 6): "iterative IMP, epoch 6",
    ("resnet50", "imp", 0): "iterative IMP, epoch 0",
    ("inception_v3", "imp_one_shot", 8): "one-shot IMP, epoch 8",
    ("inception_v3", "random_reinit_one_shot", None): "random reinitialisation",
    ("squeezenet1_0", "imp_one_shot", 10): "one-shot IMP, epoch 10",
    ("squeezenet1_0", "random_reinit_one_shot", None): "random reinitialisation",
}
"""Curves of the paper's Figure 8: network, method in the file, epoch -> the curve's name in a legend."""
DENSE = {"resnet50": 76.1, "inception_v3": 78.1, "squeezenet1_0": 54.9}
"""Where its one-shot curves start, at all weights."""


@pytest.mark.parametrize("network", DENSE)
def test_the_papers_imagenet_curves_are_all_drawn_from_the_file(network: str):
    axes = mpl.figure.Figure().subplots()
    plots.draw_paper(axes, paper_values(network=network, figure="fig8"))
    file = pd.read_csv(PROJECT / "results" / "paper_values.csv")
    file = file[(file["figure"] == "fig8") & (file["network"] == network.removesuffix("1_0"))]
    expected = {}
    for (own, method, epoch), name in FIGURE_8.items():
        rewound = file["rewind"].isna() if epoch is None else file["rewind"] == epoch
        curve = file[(file["method"] == method) & rewound].sort_values("percent_remaining", ascending=False)
        if own == network:
            gaps = zip(curve["percent_remaining"], curve["value"], strict=True)
            expected[f"paper: {name}"] = [(size, round(value - DENSE[network], 6)) for size, value in gaps]
    assert points(axes) == expected
    assert sum(map(len, expected.values())) == len(file)
    assert {line.get_color() for line in axes.lines} == {plots.PAPER_COLOR}
    assert len({line.get_linestyle() for line in axes.lines}) == len(expected)


def test_where_the_paper_has_no_curve_nothing_is_drawn_and_many_lines_have_their_legend_beside_the_plot(
    table: pd.DataFrame,
):
    figure = plots.accuracy_curves(table, relative=True)
    (axes,) = figure.axes
    before, inside = len(axes.lines), figure.get_figwidth()
    plots.draw_paper(axes, paper_values(network="resnet20", figure="fig5", recipe="low"))
    assert (len(axes.lines), figure.get_figwidth()) == (before, inside)
    plots.draw_paper(axes, paper_values(network="resnet50", figure="fig8"))
    assert figure.get_figwidth() > inside
    figure.draw_without_rendering()
    assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1


def test_stability_against_accuracy_has_a_point_for_each_subnetwork_of_the_level(table: pd.DataFrame):
    axes = plots.stability_against_accuracy(table, level=2, metric="l2_pruning").axes[0]
    drawn = [tuple(map(float, point)) for point in axes.collections[0].get_offsets()]
    imp = [(20.0 + replicate, 97.5 + replicate / 10) for replicate in (1, 2, 3)]
    random = [(21.0 + replicate, 95.5 + replicate / 10) for replicate in (1, 2, 3)]
    np.testing.assert_allclose(sorted(drawn), sorted(2 * imp + 2 * random))  # at each of two rewinding iterations
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("L2 to the dense network", "test accuracy (%)")
    assert {"0", "20", "IMP", "random pruning"} <= {text.get_text() for text in axes.get_legend().get_texts()}


def test_stability_curves_have_a_panel_for_each_metric_at_the_level_asked_for(table: pd.DataFrame):
    figure = plots.stability_curves(table, level=2, metrics=[METRIC, "test_accuracy"])
    assert [points(axes) for axes in figure.axes] == [
        {"IMP": [(0, 12), (1, 12)], "random pruning": [(0, 13), (1, 13)]},
        {"IMP": [(0, 97.7), (1, 97.7)], "random pruning": [(0, 95.7), (1, 95.7)]},
    ]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "20"]


def test_level_curves_run_over_the_weights_remaining_and_the_papers_values_are_marked_within(table: pd.DataFrame):
    axes = plots.level_curves(table, rewind=0, metrics=["l2_pruning"]).axes[0]
    assert points(axes)["IMP"] == [(64.0, 22.0), (80.0, 12.0)]
    before, paper = len(axes.lines), pd.DataFrame({"value": [90.0], "low": [89.0], "high": [91.0]})
    plots.mark_paper(axes, paper[:0], [])
    assert len(axes.lines) == before
    plots.mark_paper(axes, paper, [64])
    (mark,) = [line for line in axes.lines if line.get_marker() == "D"]
    assert mark.get_xydata().tolist() == [[64.0, 90.0]]
    bottom, top = axes.get_ylim()
    assert bottom == 0
    assert 91 < top < 100
