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
from conftest import PROJECT, paper_values
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


Lines = dict[str, list[tuple[float | str, float]]]


def panels_of(chart: Chart) -> list[Lines]:
    """For each panel, the points of its series in the CSV's numbers."""
    found, numbers = [], chart.numbers().round(6)
    for panel in chart.panels:
        here = numbers[(numbers["panel"] == panel.title) & (numbers["y"] == panel.ylabel)]
        series = here.groupby("series", sort=False)
        found.append({str(name): list(zip(rows["x"], rows["mean"], strict=True)) for name, rows in series})
    return found


# What is drawn

ACCURACY: Lines = {"IMP": [(100, 98.2), (80, 97.7), (64, 97.7)], "random pruning": [(80, 96.7), (64, 95.7)]}
"""By hand: means over replicates and data orders; the dense network begins the line of tickets."""
RELATIVE: Lines = {"IMP": [(100, 0.0), (80, -0.5), (64, -0.5)], "random pruning": [(80, -1.5), (64, -2.5)]}
"""Less the dense network's: a point between data orders, a point a level for random pruning."""
AT_K: Lines = {"IMP": [(0, 12.0), (20, 12.0)], "random pruning": [(0, 13.0), (20, 13.0)]}
TICKET = [(80, 11.0), (64, 21.0)]
HISTORY = pd.DataFrame(
    [(100.0, "imp", 0, 98.0, 100.0), (80.0, "imp", 0, 97.0, 60.0), (80.0, "random_pruning", 0, 95.0, 70.0)],
    columns=["percent_remaining", "method", "rewind", "test_accuracy", "fc1"],
)


def halves(lines: Lines) -> Lines:
    return {name: [(x, y / 2) for x, y in line] for name, line in lines.items()}


def with_a_low_recipe(table: pd.DataFrame) -> pd.DataFrame:
    """The same records, and half of every value for a second recipe."""
    return pd.concat([table, table.assign(recipe="low", value=table["value"] / 2)], ignore_index=True)


def by_recipe(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(recipe): rows for recipe, rows in with_a_low_recipe(table).groupby("recipe", sort=False)}


def tickets(table: pd.DataFrame, metric: str = "l2_pruning") -> pd.DataFrame:
    """The distances of the first replicate's tickets to the dense network, 11 and 21, under another name."""
    return table.query("method == 'imp' and replicate == 1 and metric == 'l2_pruning'").assign(metric=metric)


def with_snip(table: pd.DataFrame) -> pd.DataFrame:
    """The same records, and SNIP's reinitialised networks, as accurate as those of random pruning."""
    return pd.concat([table.query("method == 'random_pruning'").assign(method="snip_reinit"), table])


def paper(column: str, *values: tuple[object, str, float], metric: str = "l2_pruning") -> pd.DataFrame:
    """Values of the paper: place on the x axis, method, value."""
    return pd.DataFrame(values, columns=[column, "method", "value"]).assign(metric=metric, low=8.0, high=15.0)


def beside_the_paper(table: pd.DataFrame) -> Chart:
    theirs = paper("recipe", ("low", "imp", 9.0), ("low", "random_pruning", 14.0), ("warmup", "imp", 7.0))
    return charts.by_recipe(with_a_low_recipe(table), level=2, rewind=0, metrics=["l2_pruning"], paper=theirs)


DRAWN: dict[str, tuple[Callable[[pd.DataFrame], Chart], list[Lines]]] = {
    "accuracy at one k": (lambda table: charts.accuracy(table.query("rewind == 0")), [ACCURACY]),
    "differences to the dense network of the same replicate, where one has no level 2": (
        lambda table: charts.accuracy(table.query("rewind == 0 and (replicate < 3 or level < 2)"), relative=True),
        [RELATIVE],
    ),
    "controls, without tickets": (
        lambda table: charts.accuracy(table.query("rewind == 0 and method != 'imp'"), relative=True),
        [{"random pruning": RELATIVE["random pruning"]}],
    ),
    "recipes": (
        lambda table: charts.accuracy_panels(by_recipe(table.query("rewind == 0"))),
        [RELATIVE, halves(RELATIVE)],
    ),
    "distances": (
        lambda table: charts.distance_panels(
            {"a": tickets(table), "b": tickets(table.query("rewind == 20"))}, "l2_pruning"
        ),
        [{"IMP, k = 0": TICKET, "IMP, k = 20": TICKET}, {"IMP, k = 20": TICKET}],
    ),
    "recipes against k": (
        lambda table: charts.against_k(
            with_a_low_recipe(table), level=2, metrics=[METRIC], paper=paper("rewind", (None, "imp", 11), metric=METRIC)
        ),
        [lines | {"paper: IMP": [(0, 11.0)]} for lines in (AT_K, halves(AT_K))],
    ),
    "recipes beside the paper's": (
        beside_the_paper,
        [
            {
                "IMP": [("standard", 22.0), ("low", 11.0)],
                "random pruning": [("standard", 23.0), ("low", 11.5)],
                "paper: IMP": [("low", 9.0)],
                "paper: random pruning": [("low", 14.0)],
            }
        ],
    ),
    "levels beside the paper's": (
        lambda table: charts.by_level(
            table,
            rewind=0,
            metrics=["l2_pruning", "test_accuracy"],
            paper=paper("percent_remaining", (64, "imp", 90), (64, "dense", 1)),
        ),
        [
            {"IMP": [(80, 12), (64, 22)], "random pruning": [(80, 13), (64, 23)], "paper: IMP": [(64, 90)]},
            ACCURACY | {"IMP": ACCURACY["IMP"][1:]},
        ],
    ),
    "sanity checks, of which controls are those of tickets": (
        lambda table: charts.sanity_checks(with_snip(table.query("rewind == 0")), level=2),
        [{"IMP": [("as it is", 97.7), ("shuffled", 95.7)], "SNIP": [("reinitialised", 95.7)]}],
    ),
    "a search, and what it leaves of every layer": (
        lambda table: charts.ticket_search(HISTORY),
        [{"IMP": [(100, 98), (80, 97)], "random pruning": [(80, 95)]}, {"fc1": [(100, 100), (80, 60)]}],
    ),
}
"""What is drawn -> the chart, and the lines of its panels, computed by hand."""


@pytest.mark.parametrize("what", DRAWN)
def test_the_points_of_a_chart_are_those_computed_by_hand(what: str, table: pd.DataFrame):
    chart, expected = DRAWN[what]
    assert panels_of(chart(table)) == expected


def test_intervals_are_students_t_over_replicates(table: pd.DataFrame):
    """By hand: replicates 98.1, 98.2 and 98.3 have a standard error of 0.1 / sqrt(3)."""
    dense = charts.accuracy(table.query("rewind == 0")).numbers().set_index(["series", "x"]).loc[("IMP", 100.0)]
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    found = dense[["n", "low", "high", "replicate_1", "replicate_2", "replicate_3"]].tolist()
    assert found == pytest.approx([3, 98.2 - half, 98.2 + half, 98.1, 98.2, 98.3])


def test_panels_are_named_and_share_an_axis_of_accuracies_or_angles_but_not_of_l2(table: pd.DataFrame):
    both = with_a_low_recipe(table)
    accuracies = charts.accuracy_panels(by_recipe(table))
    l2, angles = (charts.distance_panels({"a": tickets(table, m)}, m) for m in ("l2_pruning", "angle_pruning"))
    shared = [(chart.share_y, [panel.title for panel in chart.panels]) for chart in (accuracies, l2, angles)]
    assert shared == [(True, ["standard", "low"]), (False, ["a"]), (True, ["a"])]
    against_k = charts.against_k(both, level=2, metrics=[METRIC])
    assert [panel.title for panel in against_k.panels] == ["standard recipe", "low recipe"]
    with pytest.raises(ValueError, match="of the recipes standard, low; give each a panel"):
        charts.accuracy(both)


def test_the_papers_values_stand_beside_ours_and_0_is_on_the_axis(table: pd.DataFrame):
    (axes,) = draw(beside_the_paper(table)).axes
    (bars,) = axes.containers[-1:]
    assert bars.lines[0].get_marker() == "D"
    assert np.round(bars.lines[0].get_xydata(), 6).tolist() == [[0.85, 9.0], [1.15, 14.0]]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["standard", "low"]
    assert axes.get_ylim()[0] == 0


def test_a_shared_axis_shows_all_panels_and_0(table: pd.DataFrame):
    low = tickets(table, "angle_pruning")
    chart = charts.distance_panels({"low": low, "high": low.assign(value=100 + low["value"])}, "angle_pruning")
    for width in get_args(Width):
        (bottom, top), (low, high) = (axes.get_ylim() for axes in draw(chart, width=width).axes)
        assert (bottom, top) == (low, high)
        assert bottom <= 0
        assert top > 121


def test_accuracy_against_stability_has_a_point_for_each_subnetwork(table: pd.DataFrame):
    chart = charts.accuracy_against(table, level=2, metric="l2_pruning")
    drawn = np.concatenate([each.get_offsets() for each in draw(chart).axes[0].collections])
    imp = [(20.0 + replicate, 97.5 + replicate / 10) for replicate in (1, 2, 3)]
    random = [(21.0 + replicate, 95.5 + replicate / 10) for replicate in (1, 2, 3)]
    np.testing.assert_allclose(sorted(drawn.tolist()), sorted(2 * imp + 2 * random))  # at each of two k
    assert chart.panels[0].looks == {"IMP": "imp", "IMP, rewound": "imp rewound", "random pruning": "random_pruning"}
    (points,) = panels_of(chart)
    assert sorted(points["IMP"]) == [tuple(map(float, point)) for point in imp]


def paper_lines(chart: Chart) -> Lines:
    (lines,) = panels_of(chart)
    return {name: line for name, line in lines.items() if name.startswith("paper")}


def test_the_papers_curves_are_differences_to_its_dense_network(table: pd.DataFrame):
    paper = paper_values(network="resnet20", figure="fig5", recipe="standard")
    lines = paper_lines(charts.accuracy(table, relative=True, paper=paper))
    assert set(lines) == {"paper: IMP, k = 0", "paper: IMP, k = 500"}
    assert (lines["paper: IMP, k = 0"][0], lines["paper: IMP, k = 0"][-1]) == ((100.0, 0.0), (4.7, -8.0))
    assert lines["paper: IMP, k = 500"][3] == (51.8, 0.26)  # 91.3 less 91.04, where this curve starts
    low = charts.accuracy(table, relative=True, paper=paper_values(network="resnet20", figure="fig5", recipe="low"))
    assert paper_lines(low) == {}


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
"""Curves of the paper's Figure 8: network, method in the file, epoch -> the curve's name."""
DENSE = {"resnet50": 76.1, "inception_v3": 78.1, "squeezenet1_0": 54.9}
"""Where its one-shot curves start, at all weights."""


@pytest.mark.parametrize("network", DENSE)
def test_the_papers_imagenet_curves_are_all_drawn_from_the_file(network: str, table: pd.DataFrame):
    chart = charts.accuracy(table, relative=True, paper=paper_values(network=network, figure="fig8"))
    file = pd.read_csv(PROJECT / "results" / "paper_values.csv")
    file = file[(file["figure"] == "fig8") & (file["network"] == network.removesuffix("1_0"))]
    expected = {}
    for (own, method, epoch), name in FIGURE_8.items():
        rewound = file["rewind"].isna() if epoch is None else file["rewind"] == epoch
        curve = file[(file["method"] == method) & rewound].sort_values("percent_remaining", ascending=False)
        if own == network:
            gaps = zip(curve["percent_remaining"], curve["value"], strict=True)
            expected[f"paper: {name}"] = [(size, round(value - DENSE[network], 6)) for size, value in gaps]
    assert paper_lines(chart) == expected
    assert sum(map(len, expected.values())) == len(file)


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
    assert axes.xaxis_inverted()  # from 100% down


def test_a_wide_interval_of_two_replicates_does_not_press_the_values_together(table: pd.DataFrame):
    two = table.query("rewind == 0 and replicate < 3")
    two = two.assign(value=two["value"] + 3.0 * (two["replicate"] == 2) * (two["method"] == "random_pruning"))
    chart = charts.accuracy(two)
    numbers, (bottom, top) = chart.numbers(), draw(chart).axes[0].get_ylim()
    values = numbers[["replicate_1", "replicate_2"]]
    span = values.max().max() - values.min().min()
    assert numbers["high"].max() > values.max().max() + span  # Student's t: 12.7 standard errors
    assert values.min().min() - span / 2 <= bottom < values.min().min()
    assert values.max().max() < top <= values.max().max() + span / 2 + 1e-9


def test_where_each_replicate_is_shown_there_is_no_mean(table: pd.DataFrame):
    chart = charts.accuracy(table.query("rewind == 0 and method != 'random_pruning'"), each=True)
    (axes,) = draw(chart).axes
    expected = [[(64.0, 97.5 + r / 10), (80.0, 97.5 + r / 10), (100.0, 98.0 + r / 10)] for r in (1, 2, 3)]
    assert sorted(sorted(line) for line in drawn_lines(axes)) == [
        [tuple(np.round(p, 6)) for p in line] for line in expected
    ]
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
    assert {text.get_text() for text in axes.texts} == {
        f"{name}, k = {k}" for name in ("IMP", "random pruning") for k in (0, 20)
    }
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


@pytest.mark.parametrize(
    ("ks", "rotation"), [((0, 25, 100, 200, 500), 0), ((0, 100, 500, 1_000, 5_000, 20_000), 45)], ids=["short", "long"]
)
def test_names_of_places_that_do_not_fit_side_by_side_are_slanted(ks: tuple[int, ...], rotation: int):
    table = pd.DataFrame({"series": "IMP", "x": ks, "replicate": 1, "value": 1.0})
    figure = draw(Chart("Stability", (Panel("", "L2", table, {"IMP": "imp"}),) * 3, "k", "k"))
    figure.canvas.draw()
    labels = figure.axes[0].get_xticklabels()
    assert {label.get_rotation() for label in labels} == {rotation}
    if not rotation:
        boxes = [label.get_window_extent() for label in labels]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


# What is kept


def test_a_figure_leaves_its_pictures_numbers_and_story(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTH_FIGURES", str(tmp_path / "figures"))
    chart = charts.accuracy(table)
    publish(chart, "accuracy", table, STUDY, note="At k = 0.")
    ends = {f"{theme}{width}.svg" for theme in ("light", "dark") for width in ("", ".narrow")} | {"csv", "json"}
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {f"accuracy.{end}" for end in ends}
    numbers = pd.read_csv(tmp_path / "figures/accuracy.csv", keep_default_na=False, na_values=[""])
    drawn = chart.numbers()
    for name in ("mean", "low", "high", "replicate_1", "replicate_3"):
        np.testing.assert_allclose(numbers[name].to_numpy(float), drawn[name].to_numpy(float), rtol=1e-5)
    assert numbers["series"].tolist() == drawn["series"].tolist()
    about = json.loads((tmp_path / "figures/accuracy.json").read_text())
    assert (about["profiles"], about["replicates"]) == (["paper"], 3)
    assert (about["studies"], about["axis"]) == ([STUDY.setting.name], "percent")
    assert about["caption"].startswith("Test accuracy. At k = 0. LeNet-300-100 on")
    assert about["png"] == hashlib.sha256(rendered(chart, "png")).hexdigest()
    assert about["trainings"] > 100
    text = (tmp_path / "figures/accuracy.light.svg").read_text()
    assert "random pruning, k = 20</text>" in text  # as text, not as outlines


def test_a_caption_counts_distances_between_networks_of_two_kinds_of_processor(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTH_FIGURES", str(tmp_path))
    apart = (table["metric"] == METRIC) & (table["replicate"] == 1) & (table["level"] == 2)
    mixed = table.assign(device=table["device"].where(~apart, "AMD EPYC (AVX2) and Intel Xeon (AVX512)"))
    for name, chart in (
        ("distances", charts.against_k(mixed, level=2, metrics=[METRIC])),
        ("accuracies", charts.accuracy(mixed)),
    ):
        publish(chart, name, mixed, STUDY)
    captions = [json.loads((tmp_path / f"{name}.json").read_text())["caption"] for name in ("distances", "accuracies")]
    said = f"{apart.sum()} of the distances are between networks of two kinds of processor."
    assert [said in caption for caption in captions] == [True, False]


def test_without_a_folder_nothing_is_written(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LTH_FIGURES", raising=False)
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    publish(charts.accuracy(table), "accuracy", table, STUDY)
    assert list(here.iterdir()) == []


def test_the_same_chart_gives_the_same_bytes(table: pd.DataFrame):
    chart = charts.accuracy(table)
    assert rendered(chart, "svg", "dark") == rendered(chart, "svg", "dark") != rendered(chart, "svg", "light")


def test_the_alternative_text_has_the_last_value_of_every_line_and_is_short(table: pd.DataFrame):
    text = alternative(charts.accuracy(table.query("rewind == 0")), "LeNet-300-100")
    assert text == (
        "LeNet-300-100, test accuracy against weights remaining (%). "
        "Test accuracy at 64: IMP 97.7, random pruning 95.7."
    )
    assert alternative(beside_the_paper(table), "ResNet-20") == (  # the paper's are left out
        "ResNet-20, stability by recipe against recipe. "
        "L2 to the dense network at standard: IMP 22.0, random pruning 23.0."
    )
    points = alternative(charts.accuracy_against(table, level=2, metric="l2_pruning"), "ResNet-20")
    assert points == (  # points of replicates have no last value
        "ResNet-20, accuracy against stability. "
        "Test accuracy (%) against L2 to the dense network, a point for each subnetwork."
    )
    uneven = table.query("rewind == 0 and (method != 'random_pruning' or level < 2)")
    assert alternative(charts.accuracy(uneven), "LeNet").endswith("at 64: IMP 97.7, random pruning 96.7 (at 80).")
    late = alternative(charts.against_k(table.replace({"rewind": {20: 20_000}}), level=2, metrics=[METRIC]), "LeNet")
    assert "at 20,000: IMP" in late
    several = charts.against_k(with_a_low_recipe(table), level=2, metrics=[METRIC, "l2_pruning", "test_accuracy"])
    long = alternative(several, "ResNet-20")
    assert "Standard recipe, L2 between data orders at 20: IMP 12.0, random pruning 13.0." in long
    assert len(long.split()) <= 60
