"""Charts and figures: what is drawn are the means and intervals of records, and the CSV beside it says the same."""

import hashlib
import io
import json
import re
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from conftest import paper_values
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from scipy import stats

from lth_core import Mask
from lth_study import preset
from lth_study.methods import TABLE
from lth_study.report import charts
from lth_study.report.chart import Chart, Panel, PixelMaps
from lth_study.report.drawing import _apart, draw, draw_maps, rendered
from lth_study.report.looks import DASHES, LOOKS, PAPERS, Theme, Width, dash_of, look_of
from lth_study.report.publish import alternative, publish

STUDY = preset("lenet_300_100").only("stability")
METRIC = "l2_data_order"


@pytest.fixture
def initial(table: pd.DataFrame) -> pd.DataFrame:
    """The records of the dense networks and of those rewound to 0."""
    return table[table["rewind"] == 0]


def with_a_low_recipe(table: pd.DataFrame) -> pd.DataFrame:
    """The same records, and half of every value for a second recipe."""
    return pd.concat([table, table.assign(recipe="low", value=table["value"] / 2)])


def means(chart: Chart, panel: int = 0) -> dict[str, list[tuple[float | str, float]]]:
    """The points of each series in the CSV's numbers."""
    numbers = chart.numbers()
    here = numbers[(numbers["panel"] == chart.panels[panel].title) & (numbers["y"] == chart.panels[panel].ylabel)]
    return {
        str(name): [
            (row.x if isinstance(row.x, str) else round(float(row.x), 6), round(float(row.mean), 6))
            for row in rows.itertuples()
        ]
        for name, rows in here.groupby("series", sort=False)
    }


# What is drawn


RELATIVE = {"IMP": [(100, 0.0), (80, -0.5), (64, -0.5)], "random pruning": [(80, -1.5), (64, -2.5)]}
"""Accuracies less the dense network's: a point between data orders, a point a level for random pruning."""


def test_accuracy_is_the_mean_over_replicates_and_data_orders(table: pd.DataFrame, initial: pd.DataFrame):
    lines = {"IMP": [(100, 98.2), (80, 97.7), (64, 97.7)], "random pruning": [(80, 96.7), (64, 95.7)]}
    assert means(charts.accuracy(initial)) == lines
    of_both = {f"{name}, k = {k}": line for name, line in lines.items() for k in (0, 20)}
    assert means(charts.accuracy(table)) == of_both


def test_intervals_are_students_t_over_replicates(initial: pd.DataFrame):
    """By hand: replicates 98.1, 98.2 and 98.3 have a standard error of 0.1 / sqrt(3)."""
    dense = charts.accuracy(initial).numbers().set_index(["series", "x"]).loc[("IMP", 100.0)]
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    expected = {"n": 3, "low": 98.2 - half, "high": 98.2 + half} | {f"replicate_{r}": 98 + r / 10 for r in (1, 2, 3)}
    assert dense[list(expected)].to_dict() == pytest.approx(expected)


def test_relative_accuracies_are_differences_to_the_dense_network_of_the_same_replicate(initial: pd.DataFrame):
    absent = (initial["replicate"] == 3) & (initial["level"] == 2)
    assert means(charts.accuracy(initial[~absent], relative=True)) == RELATIVE
    controls = charts.accuracy(initial[initial["method"] != "imp"], relative=True)  # needs no ticket
    assert means(controls)["random pruning"] == RELATIVE["random pruning"]


def test_recipes_have_panels_and_are_not_mixed_in_one(initial: pd.DataFrame):
    both = with_a_low_recipe(initial)
    chart = charts.accuracy_panels(dict(iter(both.groupby("recipe", sort=False))))
    assert [panel.title for panel in chart.panels] == ["standard", "low"]
    assert (means(chart, 0), means(chart, 1)["random pruning"]) == (RELATIVE, [(80, -0.75), (64, -1.25)])
    left, right = draw(chart).axes
    assert left.get_ylim() == right.get_ylim()
    assert (left.get_ylabel(), right.get_ylabel()) == (charts.BELOW_DENSE, "")
    with pytest.raises(ValueError, match="of the recipes standard, low; give each a panel"):
        charts.accuracy(both)


def test_distances_have_panels_with_an_axis_each(table: pd.DataFrame):
    tickets = table[(table["method"] == "imp") & (table["replicate"] == 1)]
    chart = charts.distance_panels({"small": tickets, "large": tickets[tickets["rewind"] == 20]}, "l2_pruning")
    assert means(chart, 0) == {f"IMP, k = {k}": [(80, 11.0), (64, 21.0)] for k in (0, 20)}
    assert set(means(chart, 1)) == {"IMP, k = 20"}
    assert not chart.share_y


def test_angles_share_an_axis_that_shows_all_panels_and_0(table: pd.DataFrame):
    low = table[(table["method"] == "imp") & (table["metric"] == "l2_pruning")].assign(metric="angle_pruning")
    high = low.assign(value=100 + low["value"])
    chart = charts.distance_panels({"low": low, "high": high}, "angle_pruning")
    for width in get_args(Width):
        limits, others = (axes.get_ylim() for axes in draw(chart, width=width).axes)
        assert limits == others
        assert limits[0] <= 0 < high["value"].max() < limits[1]


def test_against_k_has_a_panel_for_each_metric_and_recipe_at_one_level(table: pd.DataFrame):
    chart = charts.against_k(table, level=2, metrics=[METRIC, "test_accuracy"])
    assert means(chart, 0) == {"IMP": [(0, 12), (20, 12)], "random pruning": [(0, 13), (20, 13)]}
    assert means(chart, 1) == {"IMP": [(0, 97.7), (20, 97.7)], "random pruning": [(0, 95.7), (20, 95.7)]}
    both = charts.against_k(with_a_low_recipe(table), level=2, metrics=[METRIC])
    assert [(panel.title, means(both, n)["IMP"]) for n, panel in enumerate(both.panels)] == [
        ("standard recipe", [(0, 12), (20, 12)]),
        ("low recipe", [(0, 6), (20, 6)]),
    ]


def test_recipes_stand_side_by_side_beside_the_papers_values_of_the_same(table: pd.DataFrame):
    known = [("low", "imp", 9.0), ("low", "random_pruning", 14.0), ("warmup", "imp", 7.0)]
    paper = pd.DataFrame(known, columns=["recipe", "method", "value"]).assign(metric="l2_pruning", low=8.0, high=15.0)
    chart = charts.by_recipe(with_a_low_recipe(table), level=2, rewind=0, metrics=["l2_pruning"], paper=paper)
    assert means(chart) == {
        "IMP": [("standard", 22.0), ("low", 11.0)],
        "random pruning": [("standard", 23.0), ("low", 11.5)],
        "paper: IMP": [("low", 9.0)],
        "paper: random pruning": [("low", 14.0)],
    }
    (axes,) = draw(chart).axes
    (bars,) = axes.containers[-1:]
    assert np.round(bars.lines[0].get_xydata(), 6).tolist() == [[0.85, 9.0], [1.15, 14.0]]  # beside ours
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["standard", "low"]


def test_along_the_levels_the_papers_values_stand_at_their_size(table: pd.DataFrame):
    columns = ["metric", "method", "percent_remaining", "value", "low", "high"]
    paper = pd.DataFrame([("l2_pruning", "imp", 64.0, 90.0, 89.0, 91.0)], columns=columns)
    chart = charts.by_level(table, rewind=0, metrics=["l2_pruning"], paper=paper)
    assert means(chart) == {
        "IMP": [(80, 12), (64, 22)],
        "random pruning": [(80, 13), (64, 23)],
        "paper: IMP": [(64, 90)],
    }
    assert draw(chart).axes[0].get_ylim()[0] == 0


def test_accuracy_against_stability_has_a_point_for_each_subnetwork(table: pd.DataFrame):
    chart = charts.accuracy_against(table, level=2, metric="l2_pruning")
    drawn = np.concatenate([each.get_offsets() for each in draw(chart).axes[0].collections])
    imp = [(20.0 + replicate, 97.5 + replicate / 10) for replicate in (1, 2, 3)]
    random = [(21.0 + replicate, 95.5 + replicate / 10) for replicate in (1, 2, 3)]
    np.testing.assert_allclose(sorted(drawn.tolist()), sorted(2 * imp + 2 * random))  # at each of two k
    assert chart.panels[0].looks == {"IMP": "imp", "IMP, rewound": "imp rewound", "random pruning": "random_pruning"}
    assert sorted(means(chart)["IMP"]) == [tuple(map(float, point)) for point in imp]


Curves = dict[str, tuple[int, tuple[float, float], tuple[float, float]]]
PAPER: dict[tuple[str, str], Curves] = {
    ("fig5", "resnet20"): {
        "IMP, k = 500": (16, (100, 0), (4.7, -5.86)),  # less 91.04, where it starts
        "IMP, k = 0": (16, (100, 0), (4.7, -8.0)),
    },
    ("fig8", "resnet50"): {
        "one-shot IMP, epoch 6": (8, (100, 0), (5, -6.9)),
        "random reinitialisation": (6, (80, -0.35), (10, -6.9)),  # less 76.1, where the one-shot curve starts
        "iterative IMP, epoch 6": (14, (80, 0.3), (4.4, -6.6)),
        "iterative IMP, epoch 0": (12, (80, -0.3), (6.9, -11.0)),
    },
    ("fig8", "inception_v3"): {
        "one-shot IMP, epoch 8": (6, (100, 0), (10, -4.3)),
        "random reinitialisation": (5, (70, -0.6), (10, -7.8)),
    },
    ("fig8", "squeezenet1_0"): {
        "one-shot IMP, epoch 10": (6, (100, 0), (10, -30.2)),
        "random reinitialisation": (2, (70, -3.9), (50, -54.9)),
    },
}
"""Figure and network -> the curve's name -> how many points it has, its first and its last, by hand from the file."""


@pytest.mark.parametrize(("figure", "network"), PAPER)
def test_the_papers_curves_are_differences_to_its_dense_network(figure: str, network: str, table: pd.DataFrame):
    paper = paper_values(figure=figure, network=network, recipe="standard")
    lines = means(charts.accuracy(table, relative=True, paper=paper))
    drawn = {name.removeprefix("paper: "): line for name, line in lines.items() if name.startswith("paper")}
    assert {name: (len(line), line[0], line[-1]) for name, line in drawn.items()} == PAPER[figure, network]


def test_a_recipe_without_values_of_the_paper_has_no_curve_of_it(table: pd.DataFrame):
    none = paper_values(figure="fig5", network="resnet20", recipe="low")
    assert set(means(charts.accuracy(table, relative=True, paper=none))) == set(means(charts.accuracy(table)))


NOTHING: dict[str, Callable[[pd.DataFrame], object]] = {
    "of the accuracy, since 3 trainings diverged": lambda table: charts.accuracy(lost(table)),
    "for the panel 'b', since 3": lambda table: charts.distance_panels({"b": lost(table)}, METRIC),
    "for the panel 'c'": lambda table: charts.distance_panels({"c": table[:0]}, METRIC),
    "at level 3": lambda table: charts.against_k(table, level=3, metrics=[METRIC]),
    "at level 2, rewound to 5": lambda table: charts.by_recipe(table, level=2, rewind=5, metrics=[METRIC]),
    "of subnetworks rewound to 5": lambda table: charts.by_level(table, rewind=5, metrics=[METRIC]),
    "of angle to the dense network": lambda table: charts.accuracy_against(table, level=2, metric="angle_pruning"),
}


def lost(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["method"] == "dense"].assign(metric="diverged")


@pytest.mark.parametrize("why", NOTHING)
def test_a_chart_of_nothing_is_an_error_that_says_why(why: str, table: pd.DataFrame):
    with pytest.raises(ValueError, match=re.escape(f"nothing is recorded {why}")):
        NOTHING[why](table)


def test_a_panel_of_nothing_says_so(table: pd.DataFrame):
    others, metrics = table[table["metric"] != METRIC], [METRIC, "l2_pruning"]
    for chart in (
        charts.against_k(others, level=2, metrics=metrics),
        charts.by_recipe(others, level=2, rewind=0, metrics=metrics),
    ):
        assert [[text.get_text() for text in axes.texts] for axes in draw(chart).axes] == [["not recorded"], []]


# The picture


def drawn_lines(axes: Axes) -> list[list[tuple[float, float]]]:
    lines = [line.get_xydata() for line in axes.lines if len(line.get_xdata()) > 1]
    return [[(round(float(x), 6), round(float(y), 6)) for x, y in line] for line in lines]


@pytest.mark.parametrize(("theme", "width"), list(product(get_args(Theme), get_args(Width))))
def test_the_picture_has_the_numbers_means_replicates_and_intervals(theme: Theme, width: Width, table: pd.DataFrame):
    chart = charts.accuracy(table)
    (axes,) = draw(chart, theme, width).axes
    numbers = chart.numbers()
    lines = [sorted(line) for line in drawn_lines(axes)]
    for _, rows in numbers.groupby("series"):
        for column in ("mean", "replicate_1", "replicate_2", "replicate_3"):
            points = [(round(x, 6), round(y, 6)) for x, y in zip(rows["x"], rows[column], strict=True)]
            assert sorted(points) in lines
    bands = [band.get_paths()[0].vertices for band in axes.collections if band.get_paths()]
    edges = {(round(float(x), 6), round(float(y), 6)) for band in bands for x, y in band}
    for row in numbers.itertuples():
        assert {(round(row.x, 6), round(row.low, 6)), (round(row.x, 6), round(row.high, 6))} <= edges
    assert to_hex(axes.get_facecolor()) == PAPERS[theme]


def test_a_wide_interval_of_two_replicates_does_not_press_the_values_together(initial: pd.DataFrame):
    two = initial[initial["replicate"] < 3]
    two = two.assign(value=two["value"] + 3.0 * (two["replicate"] == 2) * (two["method"] == "random_pruning"))
    chart = charts.accuracy(two)
    numbers, (bottom, top) = chart.numbers(), draw(chart).axes[0].get_ylim()
    values = numbers[["replicate_1", "replicate_2"]]
    span = values.max().max() - values.min().min()
    assert numbers["high"].max() > values.max().max() + span  # Student's t: 12.7 standard errors
    assert values.min().min() - span / 2 <= bottom < values.min().min()
    assert values.max().max() < top <= values.max().max() + span / 2 + 1e-9


def test_where_each_replicate_is_shown_there_is_no_mean(initial: pd.DataFrame):
    chart = charts.accuracy(initial[initial["method"] != "random_pruning"], each=True)
    (axes,) = draw(chart).axes
    lines = sorted(sorted(line) for line in drawn_lines(axes))
    assert lines == [[(64, 97.5 + r / 10), (80, 97.5 + r / 10), (100, 98 + r / 10)] for r in (1, 2, 3)]
    assert chart.reading == "Each line is one replicate."


def test_wide_figures_have_three_panels_in_a_row_and_narrow_ones_a_column(table: pd.DataFrame):
    chart = charts.against_k(table, level=2, metrics=[METRIC, "l2_pruning", "test_accuracy"])
    wide, narrow = (draw(chart, width=width) for width in get_args(Width))
    for figure in (wide, narrow):
        figure.canvas.draw()
    assert len({axes.get_position().y0 for axes in wide.axes}) == 1
    assert len({round(axes.get_position().x1, 6) for axes in narrow.axes}) == 1
    assert narrow.get_figwidth() < wide.get_figwidth() / 2
    assert [tick.get_text() for tick in wide.axes[0].get_xticklabels()] == ["0", "20"]


def test_lines_of_a_single_panel_are_named_beside_it_and_apart(table: pd.DataFrame):
    figure = draw(charts.accuracy(table))
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == set(means(charts.accuracy(table)))
    assert all(text.xyann[0] > 1 for text in axes.texts)
    heights = sorted(text.xyann[1] * axes.get_window_extent().height for text in axes.texts)
    assert all(high - low >= 9 / 72 * figure.dpi for low, high in pairwise(heights))  # at 9 points
    assert max(text.get_window_extent().x1 for text in axes.texts) <= figure.bbox.x1
    assert figure.legends == []


@pytest.mark.parametrize(
    ("heights", "expected"),
    [([0.0, 50.0], [0.0, 50.0]), ([20.0, 20.0], [15.0, 25.0]), ([21.0, 20.0, 12.0], [27.6667, 17.6667, 7.6667])],
)
def test_names_move_as_little_as_it_takes_to_be_apart(heights: list[float], expected: list[float]):
    assert np.round(_apart(heights, 10.0), 4).tolist() == expected


def luminance(color: str) -> float:
    """Relative luminance by WCAG 2.1."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("theme", get_args(Theme))
def test_every_colour_stands_out_from_its_page_and_means_one_thing(theme: Theme):
    colors = [getattr(look, theme) for look in LOOKS.values()]
    paper = luminance(PAPERS[theme])
    for color in colors:
        light, dark = sorted((luminance(color), paper), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, color
    assert len(set(colors)) == len(colors)
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)


def test_every_method_has_a_look_and_its_variants_are_told_apart_by_their_dashes():
    for method in TABLE:
        look, number = look_of(method)
        kind = max((name for name in LOOKS if method.startswith(name)), key=len)
        assert look == LOOKS[kind]
        assert (number == 0) == (method == kind)
    assert [look_of(f"imp rewound{n}") for n in ("", " 1", " 2")] == [(LOOKS["imp rewound"], n) for n in (0, 1, 2)]
    assert len(set(DASHES)) == len(DASHES)
    assert dash_of(99) == DASHES[-1]


def test_a_pixel_has_as_many_weights_as_its_column():
    left = Mask({"fc1.weight": np.array([[1, 0, 1, 1], [1, 0, 0, 1]], dtype=bool)})
    shown = PixelMaps.of({"IMP": left}, "fc1.weight", side=2)
    (maps, _) = draw_maps(shown).axes
    assert maps.images[0].get_array().tolist() == [[2, 0], [1, 2]]
    assert shown.numbers()["weights"].tolist() == [2, 0, 1, 2]


def test_a_value_that_was_summarised_before_has_its_own_band_and_ratios_a_line_at_one():
    table = pd.DataFrame({"series": "a layer", "x": [50.0, 10.0], "replicate": 1, "value": [0.5, 4.0],
                          "low": [0.25, 2.0], "high": [1.0, 8.0]})  # fmt: skip
    chart = Chart("Speed", (Panel("", "times as fast", table, {"a layer": "dense"}),), "percent", "left", log_y=True)
    (axes,) = draw(chart).axes
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert {(50, 0.25), (50, 1), (10, 2), (10, 8)} <= corners
    assert [1, 1] in [list(line.get_ydata()) for line in axes.lines]
    assert axes.get_yscale() == "log"
    assert chart.numbers()[["mean", "low", "high"]].to_numpy().tolist() == [[0.5, 0.25, 1], [4, 2, 8]]


# What is kept


def test_a_figure_leaves_its_pictures_numbers_and_story(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTH_FIGURES", str(tmp_path / "figures"))
    chart = charts.accuracy(table)
    publish(chart, "accuracy", table, STUDY, note="At k = 0.")
    kept = {file.name.removeprefix("accuracy."): file for file in (tmp_path / "figures").iterdir()}
    pictures = {f"{theme}{width}.svg" for theme in ("light", "dark") for width in ("", ".narrow")}
    assert set(kept) == pictures | {"csv", "json"}
    numbers, drawn = pd.read_csv(kept["csv"]), chart.numbers()
    assert numbers["series"].tolist() == drawn["series"].tolist()
    of_numbers = drawn.columns[3:]
    np.testing.assert_allclose(numbers[of_numbers], drawn[of_numbers].astype(float), rtol=1e-5)
    about = json.loads(kept["json"].read_text())
    assert (about["profiles"], about["replicates"]) == (["paper"], 3)
    assert (about["studies"], about["axis"]) == ([STUDY.setting.name], "percent")
    assert about["caption"].startswith("Test accuracy. At k = 0. LeNet-300-100 on")
    assert about["png"] == hashlib.sha256(rendered(chart, "png")).hexdigest()
    assert about["trainings"] > 100
    assert "random pruning, k = 20</text>" in kept["light.svg"].read_text()  # as text, not as outlines


def test_without_a_folder_nothing_is_written(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LTH_FIGURES", raising=False)
    monkeypatch.chdir(tmp_path)
    before = list(tmp_path.rglob("*"))
    publish(charts.accuracy(table), "accuracy", table, STUDY)
    assert list(tmp_path.rglob("*")) == before


def test_the_same_chart_gives_the_same_bytes(table: pd.DataFrame):
    chart = charts.accuracy(table)
    assert rendered(chart, "svg", "dark") == rendered(chart, "svg", "dark") != rendered(chart, "svg", "light")


def test_the_alternative_text_has_the_last_value_of_every_line_and_is_short(table: pd.DataFrame):
    text = alternative(charts.accuracy(table[table["rewind"] == 0]), "LeNet-300-100")
    assert text == (
        "LeNet-300-100, test accuracy against weights remaining (%). "
        "Test accuracy at 64: IMP 97.7, random pruning 95.7."
    )
    several = charts.against_k(with_a_low_recipe(table), level=2, metrics=[METRIC, "l2_pruning", "test_accuracy"])
    long = alternative(several, "ResNet-20")
    assert "Standard recipe, L2 between data orders at 20: IMP 12.0, random pruning 13.0." in long
    assert len(long.split()) <= 60
