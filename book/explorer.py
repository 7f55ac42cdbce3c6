"""Writes what the page Explorer shows: every replicate of every recorded study, and Vega-Lite to draw it.

`write` fills `book/_static/explorer`:

    vega.js       Vega-Lite and what it needs, from the package vl-convert-python
    data.js       the records and the chart without its data; it sets the variable `EXPLORER`
    static.html   a picture and a table of the first preset, for browsers without JavaScript

A *state* says what is shown: a study (network, recipe, scale, data), x ("percent" or "k"), k, methods, the metrics of
both panels, and for x = k the level. The page's address holds it. `book/_static/explorer.js` draws the states that
`chart` draws here.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlencode

import pandas as pd
import vl_convert
from scipy import stats

from lth_study import data, preset, records
from lth_study.commands import command_for
from lth_study.presets import changes
from lth_study.report import METHOD_NAMES, METRIC_NAMES, NETWORK_NAMES, caption
from lth_study.report.charts import PERCENT, REWIND, line_look, line_name
from lth_study.report.effects import SIGNIFICANCE, estimate
from lth_study.report.looks import INKS, PAPERS, TICKS, Theme, dash_of, look_of
from lth_study.settings import IMAGENET_NETWORKS, RECORDS_ONLY, Setting

FOLDER = Path("book/_static/explorer")
_NOT_READ = " These images are no longer read: the command shows the recorded settings and trains nothing."
PANELS = {
    "accuracy": {
        "test_accuracy": METRIC_NAMES["test_accuracy"],
        "validation_accuracy": "validation accuracy (%)",
        "train_accuracy": "training accuracy (%)",
        "test_top5_accuracy": "top-5 test accuracy (%)",
    },
    "distance": {metric: title for metric, title in METRIC_NAMES.items() if metric != "test_accuracy"},
}
"""Panel -> its metrics, the first that is recorded being shown first."""

SHAPES = {
    "_": "stroke", "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross",
    "X": "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
    "h": "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",
    "d": "M0,-1L.6,0L0,1L-.6,0Z",
    "p": "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z",
}  # fmt: skip
"""Marker of `LOOKS` -> the same shape in Vega."""

CIFAR, IMAGENET = ("resnet20", "vgg19"), IMAGENET_NETWORKS
SMALL = ("lenet_300_100", *CIFAR)
FIGURES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "Figure 1": (CIFAR, {"x": "percent", "k": [0], "method": ["dense", "imp", "random_reinit"]}),
    "Figure 3": (SMALL, {"x": "percent", "k": [0], "method": ["imp", "random_pruning"], "distance": "l2_data_order"}),
    "Figure 4": (SMALL, {"x": "k", "method": ["imp", "random_pruning"], "distance": "l2_data_order"}),
    "Figure 5": (CIFAR, {"x": "percent", "method": ["dense", "imp", "random_reinit"]}),
    "Figure 8": (IMAGENET, {"x": "percent", "method": ["dense", "imp", "random_reinit"]}),
    "Figure 10": (
        SMALL,
        {"x": "percent", "k": [0], "method": ["imp", "random_pruning"], "distance": "angle_data_order"},
    ),
    "Figure 11": (SMALL, {"x": "k", "method": ["imp", "random_pruning"], "distance": "angle_data_order"}),
}
"""Figure of the paper -> its networks, and what of a state it fixes. The paper's Figures 3 and 10 are tables."""

State = dict[str, Any]
STUDY = ("network", "recipe", "scale", "data")
"""The part of a state that fixes one study."""


def write() -> None:
    """Write all files of the page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    # The bundle declares names at its top level. In a function they cannot meet those of the theme.
    (FOLDER / "vega.js").write_text(f"(() => {{\n{vl_convert.javascript_bundle()}\n}})();\n")
    known = content()
    (FOLDER / "data.js").write_text(f"window.EXPLORER = {json.dumps(known, separators=(',', ':'))};\n")
    state = next(one["state"] for one in known["presets"] if one["address"] == known["start"])
    study = study_of(known, state)
    for theme in get_args(Theme):
        (FOLDER / f"static.{theme}.svg").write_text(vl_convert.vegalite_to_svg(chart(study, state, theme)))
    (FOLDER / "static.html").write_text(static(study, state))


def content() -> dict[str, Any]:
    """All that the page knows: names, looks, studies with their values, presets, and the chart without data."""
    studies = [study for setting in records.studies(records.results_folder()) if (study := recorded(setting))]
    order = {name: place for place, name in enumerate(NETWORK_NAMES)}
    studies.sort(
        key=lambda one: (order[one["network"]], one["recipe"] != "standard", one["scale"] != "paper", len(one["data"]))
    )
    figures = presets(studies)
    most = max(len({each for row in study["rows"] for each in row["replicates"]}) for study in studies)
    return {
        "panels": PANELS,
        "networks": NETWORK_NAMES,
        "methods": METHOD_NAMES,
        "quantiles": [None, None, *(float(stats.t.ppf(1 - SIGNIFICANCE / 2, n - 1)) for n in range(2, most + 1))],
        "themes": {theme: config(theme) for theme in get_args(Theme)},
        "axes": AXES,
        "chart": CHART,
        "presets": figures,
        "start": next(one["address"] for one in figures if one["figure"] == "Figure 5"),
        "studies": studies,
    }


def recorded(setting: Setting) -> dict[str, Any] | None:
    """A study: how it is named, and its values as means over data orders. None if it has none of `PANELS`.

    A row has the values of all replicates that one kind of processor trained.
    """
    traced = records.traced(setting)
    rows = traced[traced["metric"].isin({metric for panel in PANELS.values() for metric in panel})]
    if not len(rows):
        return None
    point = ["method", "rewind", "level", "density", "metric"]
    by = rows.groupby([*point, "replicate"], sort=False)
    table = by.agg(
        value=("value", "mean"), device=("device", lambda devices: " and ".join(records.kinds(devices)))
    ).reset_index()
    accuracies = table[(table["metric"] == "test_accuracy") & (table["method"] != "dense")]
    metrics = set(table["metric"])
    return {
        "name": setting.name,
        "network": setting.network,
        "recipe": setting.recipe,
        "scale": setting.profile,
        **dict(zip(("data", "images", "command"), _data(setting), strict=True)),
        "about": caption(traced, setting) + (_NOT_READ if setting.dataset == RECORDS_ONLY else ""),
        "series": series(table),
        "first": {
            "k": sorted(accuracies["rewind"].value_counts().index[:2].tolist()),
            "level": _fullest(table),
            "accuracy": "test_accuracy",
            "distance": next((metric for metric in PANELS["distance"] if metric in metrics), "l2_pruning"),
        },
        "rows": [
            {
                "method": method,
                "k": k,
                "level": level,
                "percent": float(f"{100 * density:.4g}"),
                "metric": metric,
                "device": device,
                "replicates": own["replicate"].tolist(),
                "values": [float(f"{value:.7g}") for value in own["value"]],
            }
            for (method, k, level, density, metric, device), own in table.groupby([*point, "device"], sort=False)
        ],
    }


def _fullest(rows: pd.DataFrame) -> int:
    """The level that has values of most methods at most rewinding iterations; the densest of several."""
    lines = rows[["level", "method", "rewind"]].drop_duplicates()
    return int(lines.groupby("level").size().idxmax())


def _data(setting: Setting) -> tuple[str, str, str]:
    """The key of a study's data, its title, and the command that trains it.

    Key and title have all that differs from the preset: two studies never share a key.
    """
    standard = preset(setting.network, setting.recipe, setting.profile)
    own = {name: value for name, value in changes(setting).items() if name != "dataset"}
    key = "-".join([setting.dataset, *map(str, own.values())])
    named = (str(value) if name == "precision" else f"{name} {value}" for name, value in own.items())
    title = ", ".join([data.title(setting.dataset), *named])
    command = command_for(standard.updated(dataset=setting.dataset, **own))
    assert command is not None  # the preset exists
    return key, title, command


def series(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Every line of a study: of each method and k (for x = percent), and of each method (for x = k)."""
    later = [k for k in sorted(table["rewind"].unique()) if k]
    found = {"dense": _look("dense network", "dense")}
    for method, k in table[["method", "rewind"]].drop_duplicates().itertuples(index=False):
        if method != "dense":
            found[f"{method} {k}"] = _look(line_name(method, k), line_look(method, k, later))
            found[method] = _look(METHOD_NAMES[method], "imp rewound" if method == "imp" else method)
    return found


def _look(name: str, own: str) -> dict[str, Any]:
    look, number = look_of(own)
    dash = [2 * length for length in dash_of(number)] or [1, 0]
    return {"name": name, "light": look.light, "dark": look.dark, "shape": SHAPES[look.marker], "dash": dash}


def presets(studies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's figures, for every study that has tickets at all of their k, in both panels.

    A figure that fixes no k compares several.
    """
    found = []
    for figure, (networks, fixed) in FIGURES.items():
        for study in studies:
            state = {name: study[name] for name in STUDY} | study["first"] | fixed
            state["method"] = [name for name in fixed["method"] if any(row["method"] == name for row in study["rows"])]
            tickets = [row for row in study["rows"] if row["method"] == "imp"]
            if fixed["x"] == "k":
                state["k"] = sorted({row["k"] for row in tickets})
            ends = [{row["k"] for row in tickets if row["metric"] == state[panel]} for panel in PANELS]
            complete = set(state["k"]) <= ends[0] & ends[1] and len(state["k"]) > ("k" not in fixed)
            if study["network"] in networks and complete:
                title = f"{NETWORK_NAMES[study['network']]}, {study['recipe']}, {study['scale']}: {study['images']}"
                found.append({"figure": figure, "title": title, "state": state, "address": address(state)})
    return found


def address(state: State) -> str:
    """A state as the part of the page's address after "#"."""
    return urlencode({n: ",".join(map(str, v)) if isinstance(v, list) else v for n, v in state.items()}, safe=",")


def study_of(known: Mapping[str, Any], state: State) -> dict[str, Any]:
    """The study of a state."""
    return next(study for study in known["studies"] if all(study[name] == state[name] for name in STUDY))


AXES = {
    "percent": {
        "field": "x", "type": "quantitative", "title": PERCENT,
        "scale": {"type": "log", "reverse": True, "nice": False, "padding": 8},
        "axis": {"values": TICKS, "format": "~g", "grid": False},
    },
    "k": {"field": "x", "type": "ordinal", "title": REWIND, "axis": {"labelAngle": 0, "format": ",", "grid": False}},
}  # fmt: skip
"""The axis of x, by the kind of x."""

_CHOSEN = {"test": "datum.replicate === chosen"}
_HOVER = {"param": "hover", "empty": False}


def _panel(name: str) -> dict[str, Any]:
    """A panel: the interval, a thin line for each replicate, the mean, and every replicate's value."""
    clear, strong = ({"condition": [_HOVER | {"value": v}, _CHOSEN | {"value": v}]} for v in (1, 2.5))
    value = {"field": "value", "type": "quantitative"}
    each = {"field": "replicate", "type": "nominal"}
    plain = {"shape": None}  # a line with shapes would have points of its own
    return {
        "height": 300,
        "encoding": {
            "color": {"field": "series", "type": "nominal", "title": None},
            "strokeDash": {"field": "series", "type": "nominal", "title": None},
            "shape": {"field": "series", "type": "nominal", "title": None},
        },
        "layer": [
            {
                "data": {"name": f"{name} mean"},
                "mark": {"type": "area", "opacity": 0.16},
                "encoding": {
                    "y": {"field": "low", "type": "quantitative"},
                    "y2": {"field": "high"},
                    **plain,
                    "strokeDash": None,
                },
            },
            {
                "data": {"name": name},
                "mark": {"type": "line"},
                "encoding": {
                    "y": value,
                    "detail": each,
                    **plain,
                    "opacity": clear | {"value": 0.4},
                    "strokeWidth": strong | {"value": 0.6},
                },
            },
            {
                "data": {"name": f"{name} mean"},
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {"y": value, **plain},
            },
            {
                "data": {"name": f"{name} dense"},
                "mark": {"type": "rule", "strokeWidth": 1.2},
                "encoding": {"x": None, "y": value, **plain},
            },
            {
                "name": f"{name}_points",
                "data": {"name": name},
                "mark": {"type": "point", "filled": True, "size": 30, "tooltip": {"content": "data"}},
                "encoding": {
                    "y": value,
                    "opacity": clear | {"value": 0.5},
                    "strokeDash": {"value": [1, 0]},
                },
            },
        ],
    }


CHART: dict[str, Any] = {
    "params": [
        {"name": "chosen", "value": None},
        {
            "name": "hover",
            "select": {
                "type": "point", "on": "pointerover", "clear": "pointerout", "nearest": True,
                "fields": ["series", "replicate"],
            },
            "views": [f"{name}_points" for name in PANELS],
        },
    ],
    "concat": [_panel(name) for name in PANELS],
    "columns": 2,
    "spacing": 24,
    "resolve": {"scale": {"x": "shared"}},
}  # fmt: skip
"""Both panels in Vega-Lite, without data, axes of x and looks. A replicate that is pointed at stands out in both."""


def config(theme: Theme) -> dict[str, Any]:
    """Vega-Lite's configuration: the colours of a theme, and text of a readable size."""
    ink = INKS[theme]
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": PAPERS[theme],
        "font": "sans-serif",
        "mark": {"aria": False},  # the table says it, and the chart has a description
        "view": {"stroke": None},
        "title": {"color": ink, "fontSize": 13},
        "axis": text | {"gridColor": ink, "gridOpacity": 0.15, "domainColor": ink, "tickColor": ink},
        "legend": text | {"orient": "top", "symbolOpacity": 1, "symbolStrokeWidth": 2, "labelLimit": 300, "columns": 2},
    }


def selected(study: Mapping[str, Any], state: State) -> dict[str, list[dict[str, Any]]]:
    """The points of each panel. The dense network is a line of its own, and begins every line of tickets."""
    over_k = state["x"] == "k"
    tickets = [f"imp {k}" for k in state["k"] if f"imp {k}" in study["series"]]
    found: dict[str, list[dict[str, Any]]] = {panel: [] for panel in PANELS}
    for row in study["rows"]:
        dense = row["method"] == "dense"
        panel = next(panel for panel, metrics in PANELS.items() if row["metric"] in metrics)
        if (
            row["metric"] != state[panel]
            or row["method"] not in state["method"]
            or (not dense and row["k"] not in state["k"])
            or (not dense and over_k and row["level"] != state["level"])
        ):
            continue
        own = "dense" if dense else row["method"] if over_k else f"{row['method']} {row['k']}"
        begun = tickets if dense and not over_k and "imp" in state["method"] else []
        for name in [own, *begun]:
            for replicate, value in zip(row["replicates"], row["values"], strict=True):
                found[panel].append(
                    {
                        "series": study["series"][name]["name"],
                        "x": row["k"] if over_k else row["percent"],
                        "value": value,
                        "replicate": replicate,
                        "device": row["device"],
                        "dense": name == "dense",
                    }
                )
    return found


def summary(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and 95% interval (Student's t over replicates) of every point of every series."""
    found = []
    table = pd.DataFrame(points, columns=["series", "x", "value"])
    for (name, x), values in table.groupby(["series", "x"], sort=False)["value"]:
        interval = estimate(values)
        bounds = {"low": interval.low, "high": interval.high} if interval else {}
        found.append({"series": name, "x": x, "n": len(values), "value": float(values.mean()), **bounds})
    return found


def chart(study: Mapping[str, Any], state: State, theme: Theme) -> dict[str, Any]:
    """The chart of a state, complete. A panel without values is left out."""
    made: dict[str, Any] = json.loads(json.dumps(CHART)) | {"config": config(theme), "datasets": {}}
    points = selected(study, state)
    shown = {point["series"] for rows in points.values() for point in rows}
    looks = list({look["name"]: look for look in study["series"].values() if look["name"] in shown}.values())
    domain = [look["name"] for look in looks]
    for panel, spec in zip(PANELS, made["concat"], strict=True):
        rest = [point for point in points[panel] if not point["dense"]]
        made["datasets"] |= {
            panel: rest,
            f"{panel} mean": summary(rest),
            f"{panel} dense": summary([point for point in points[panel] if point["dense"]]),
        }
        spec["width"] = 420
        spec["title"] = PANELS[panel][state[panel]]
        spec["encoding"]["x"] = AXES[state["x"]]
        for channel, key in (("color", theme), ("strokeDash", "dash"), ("shape", "shape")):
            spec["encoding"][channel]["scale"] = {"domain": domain, "range": [look[key] for look in looks]}
        for layer in spec["layer"]:
            layer["encoding"]["y"] = layer["encoding"]["y"] | {"title": None, "scale": {"zero": panel == "distance"}}
        spec["layer"] = [layer for layer in spec["layer"] if made["datasets"][layer["data"]["name"]]]
    made["concat"] = [spec for spec in made["concat"] if spec["layer"]]
    names = {layer.get("name") for spec in made["concat"] for layer in spec["layer"]}
    for param in made["params"]:
        if "views" in param:
            param["views"] = [view for view in param["views"] if view in names]
    made["params"] = [param for param in made["params"] if param.get("views", True)]
    return made


def static(study: Mapping[str, Any], state: State) -> str:
    """A picture and a table of a state, in HTML."""
    points = selected(study, state)
    titles = [PANELS[panel][state[panel]] for panel in PANELS]
    means = {panel: {(row["series"], row["x"]): row for row in summary(points[panel])} for panel in PANELS}
    names = [look["name"] for look in study["series"].values()]

    def order(place: tuple[str, float]) -> int:
        return names.index(place[0])

    x = str(AXES[state["x"]]["title"])
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in ("network", x, *titles))
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{at:,g}</td>'
        + "".join(f"<td>{_cell(means[panel].get((name, at)))}</td>" for panel in PANELS)
        + "</tr>"
        for name, at in sorted(dict.fromkeys(place for panel in PANELS for place in means[panel]), key=order)
    )
    alt = html.escape(f"{' and '.join(titles)}. The table below has the values. {study['about']}", quote=True)
    pictures = "\n".join(
        f'<img class="only-{theme}" src="../../_static/explorer/static.{theme}.svg" alt="{alt}">'
        for theme in get_args(Theme)
    )
    return f"""<div id="explorer-picture">
{pictures}
</div>
<p id="explorer-about">{html.escape(study["about"])}</p>
<div class="explorer-table" role="region" aria-label="values" tabindex="0">
<table id="explorer-table">
<caption>Means, 95% intervals over replicates (Student's t), and the number of replicates.</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
"""


def _cell(mean: Mapping[str, Any] | None) -> str:
    if mean is None:
        return ""
    interval = f" ({mean['low']:.2f} to {mean['high']:.2f})" if "low" in mean else ""
    return f"{mean['value']:.2f}{interval}, n = {mean['n']}"
