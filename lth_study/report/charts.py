"""The charts of the study, made from records as `run` returns them. `drawing` draws them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from lth_study.report import METHOD_NAMES, METRIC_NAMES, accuracies, not_empty, paper_curves, relative_to_dense
from lth_study.report.chart import Chart, Panel

BELOW_DENSE = "accuracy less dense (points)"
PERCENT = "weights remaining (%)"
REWIND = "rewinding iteration k"


def accuracy(
    records: pd.DataFrame,
    *,
    relative: bool = False,
    each: bool = False,
    paper: pd.DataFrame | None = None,
) -> Chart:
    """Accuracy against the percentage of weights remaining (Figures 1, 5 and 9): a line for each method and k.

    With `relative`, every accuracy is less that of the dense network of the same recipe and replicate. Networks of
    different sizes can then be compared. `paper` are values of `report.paper_values`, drawn as differences to the
    paper's dense network.
    """
    return accuracy_panels({"": records}, relative=relative, each=each, paper=paper)


def accuracy_panels(
    panels: Mapping[str, pd.DataFrame],
    *,
    relative: bool = True,
    each: bool = False,
    paper: pd.DataFrame | None = None,
) -> Chart:
    """`accuracy` of several tables of records, by the title of their panel. The paper's curves stand in the last."""
    made = []
    for title, records in panels.items():
        rows = relative_to_dense(records) if relative else accuracies(records)
        table, looks = _curves(not_empty(rows, records, "of the accuracy"))
        ylabel = BELOW_DENSE if relative else METRIC_NAMES["test_accuracy"]
        theirs = _paper_lines(paper) if paper is not None and len(paper) and title == list(panels)[-1] else None
        made.append(Panel(title, ylabel, table, looks, theirs, relative))
    return Chart("Test accuracy", tuple(made), "percent", PERCENT, each, share_y=len(made) > 1)


def distance_panels(panels: Mapping[str, pd.DataFrame], metric: str) -> Chart:
    """A distance to the dense network against the percentage of weights remaining, for several tables of records."""
    made = []
    for title, records in panels.items():
        rows = not_empty(records[records["metric"] == metric], records, f"for the panel {title!r}")
        table, looks = _curves(rows)
        made.append(Panel(title, METRIC_NAMES[metric], table, looks, zero=True))
    return Chart(_title(metric), tuple(made), "percent", PERCENT, share_y=metric.startswith("angle"))


def by_level(records: pd.DataFrame, *, rewind: int, metrics: Sequence[str], paper: pd.DataFrame | None = None) -> Chart:
    """Metrics against the percentage of weights remaining, tickets beside random pruning, for one k."""
    rows = records[(records["rewind"] == rewind) & (records["level"] > 0)]
    rows = not_empty(rows, records, f"of subnetworks rewound to {rewind}")
    panels = [_panel(rows.assign(x=100 * rows["density"]), metric, paper, "percent_remaining") for metric in metrics]
    return Chart("Stability level by level", tuple(panels), "percent", PERCENT)


def against_k(
    records: pd.DataFrame,
    *,
    level: int,
    metrics: Sequence[str],
    each: bool = False,
    paper: pd.DataFrame | None = None,
) -> Chart:
    """Metrics against the rewinding iteration, tickets beside random pruning, at one level (Figures 4 and 11).

    `paper` are values of `report.paper_values`; those of the metrics at k = 0 are marked.
    """
    rows = not_empty(records[records["level"] == level], records, f"at level {level}")
    several = rows["recipe"].nunique() > 1
    panels = []
    for recipe in dict.fromkeys(rows["recipe"]):
        here = rows[rows["recipe"] == recipe]
        theirs = None if paper is None else paper.assign(rewind=paper["rewind"].fillna(0))
        made = [_panel(here.assign(x=here["rewind"]), metric, theirs, "rewind") for metric in metrics]
        panels += [replace(panel, title=f"{recipe} recipe") if several else panel for panel in made]
    return Chart("Stability and accuracy", tuple(panels), "k", REWIND, each)


def by_recipe(
    records: pd.DataFrame, *, level: int, rewind: int, metrics: Sequence[str], paper: pd.DataFrame | None = None
) -> Chart:
    """Metrics with the recipes side by side, tickets beside random pruning, at one level and k (Figures 3 and 10)."""
    rows = records[(records["level"] == level) & (records["rewind"] == rewind)]
    rows = not_empty(rows, records, f"at level {level}, rewound to {rewind}")
    known = None if paper is None else paper[paper["recipe"].isin(rows["recipe"])]
    panels = [_panel(rows.assign(x=rows["recipe"]), metric, known, "recipe") for metric in metrics]
    return Chart("Stability by recipe", tuple(panels), "category", "recipe")


def accuracy_against(records: pd.DataFrame, *, level: int, metric: str) -> Chart:
    """Accuracy against a stability at one level: a point is a method, a replicate and a rewinding iteration."""
    rows = records[(records["level"] == level) & records["method"].isin(["imp", "random_pruning"])]
    points = rows.pivot_table(index=["method", "rewind", "replicate"], columns="metric", values="value")
    points = points.reindex(columns=[metric, "test_accuracy"]).dropna().reset_index()
    points = not_empty(points, records, f"of {METRIC_NAMES[metric]} at level {level}")
    later = (points["rewind"] > 0) & (points["method"] == "imp")
    points["look"] = points["method"] + later.map({True: " rewound", False: ""})
    points["series"] = points["method"].map(METHOD_NAMES) + later.map({True: ", rewound", False: ""})
    table = points.rename(columns={metric: "x", "test_accuracy": "value"})[["series", "x", "replicate", "value"]]
    looks = dict(points[["series", "look"]].drop_duplicates().itertuples(index=False))
    panel = Panel("", METRIC_NAMES["test_accuracy"], table, looks)
    return Chart("Accuracy against stability", (panel,), "number", METRIC_NAMES[metric])


_CHECKS = {"": "as it is", "shuffled": "shuffled", "reinit": "reinitialised", "inverted": "inverted"}
_ORDER = {check: number for number, check in enumerate(_CHECKS.values())}
_OF_TICKETS = {"random_pruning": "imp_shuffled", "random_reinit": "imp_reinit"}
"""The controls, as checks of IMP."""


def sanity_checks(records: pd.DataFrame, *, level: int) -> Chart:
    """What becomes of tickets and of pruning at initialisation under sanity checks, at one level.

    A check is the end of a method's name in the table of methods: `snip_shuffled` is one of `snip`.
    """
    rows = not_empty(accuracies(records[records["level"] == level]), records, f"at level {level}")
    names = rows["method"].replace(_OF_TICKETS)
    methods = {name: min((known for known in METHOD_NAMES if name.startswith(known)), key=len) for name in names}
    checks = {name: _CHECKS[name.removeprefix(method).strip("_")] for name, method in methods.items()}
    rows = rows.assign(x=names.map(checks), method=names.map(methods)).sort_values("x", key=lambda x: x.map(_ORDER))
    table, looks = _named(rows)
    return Chart("Sanity checks", (Panel("", METRIC_NAMES["test_accuracy"], table, looks),), "category", "check")


def ticket_search(history: pd.DataFrame) -> Chart:
    """A search for tickets, level by level: the accuracy of each method, and the density of each layer.

    Columns of `history`: percent_remaining, method (a name of the table of methods), rewind and test_accuracy, and one
    column for each layer's density.
    """
    rows = history.rename(columns={"percent_remaining": "x"}).assign(replicate=1)
    accuracy, looks = _named(rows.rename(columns={"test_accuracy": "value"}))
    layers = [name for name in history if name not in ("percent_remaining", "method", "rewind", "test_accuracy")]
    left = rows[rows["method"] == "imp"].melt(["x", "replicate"], layers, "series")
    own = {layer: f"dense {number}" if number else "dense" for number, layer in enumerate(layers)}
    panels = (
        Panel("", METRIC_NAMES["test_accuracy"], accuracy, looks),
        Panel("", "weights remaining in the layer (%)", left, own, zero=True),
    )
    return Chart("A search for tickets", panels, "percent", PERCENT)


def line_name(method: str, rewind: int) -> str:
    """What a line of a method and a rewinding iteration is called."""
    return f"{METHOD_NAMES[method]}, k = {rewind:,}"


def line_look(method: str, rewind: int, later: Sequence[int]) -> str:
    """The name of its look. `later` are the figure's rewinding iterations after 0."""
    number = later.index(rewind) if rewind else 0
    return method + (" rewound" if rewind else "") + (f" {number}" if number else "")


def _curves(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Rows with the percentage remaining as x, named; the dense network begins every chain of tickets."""
    if len(recipes := list(dict.fromkeys(rows["recipe"]))) > 1:
        raise ValueError(f"these records are of the recipes {', '.join(recipes)}; give each a panel (accuracy_panels)")
    rows = rows.assign(x=100 * rows["density"])
    rewinds = sorted(rows.loc[rows["method"] != "dense", "rewind"].unique())
    lines = []
    for method, rewind in itertools.product(METHOD_NAMES, rewinds):
        line = rows[(rows["method"] == method) & (rows["rewind"] == rewind)]
        if method != "dense" and len(line):
            begins = [rows[rows["method"] == "dense"]] if method == "imp" else []
            lines.append(pd.concat([*begins, line]).assign(method=method, rewind=rewind))
    return _named(pd.concat(lines) if lines else rows)


def _panel(rows: pd.DataFrame, metric: str, paper: pd.DataFrame | None, x: str) -> Panel:
    """Tickets beside random pruning in one metric; an empty table where it is not recorded."""
    samples = accuracies(rows) if metric == "test_accuracy" else rows[rows["metric"] == metric]
    samples = samples[samples["method"].isin(["imp", "random_pruning"])]
    samples = samples.groupby(["method", "x", "replicate"], as_index=False, sort=False)["value"].mean()
    rewound = x == "rewind"  # a line over k shows tickets at initialisation and rewound ones
    table, looks = _named(samples.assign(rewind=0))
    if rewound:
        looks |= {METHOD_NAMES["imp"]: "imp rewound"}
    theirs = None
    if paper is not None:
        known = paper[(paper["metric"] == metric) & paper["method"].isin(["imp", "random_pruning"])]
        names = known["method"].map(METHOD_NAMES)
        theirs = known.assign(series=names, x=known[x])[["series", "x", "value", "low", "high"]]
    return Panel("", METRIC_NAMES[metric], table, looks, theirs, zero=metric != "test_accuracy")


def _named(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table of a panel, a series for each method and rewinding iteration, and the look of each series."""
    rewinds = sorted(rows["rewind"].unique())
    several = len(rewinds) > 1 or any(rewinds)
    later = [rewind for rewind in rewinds if rewind]
    looks, names = dict[str, str](), []
    for method, rewind in zip(rows["method"], rows["rewind"], strict=True):
        names.append(line_name(method, rewind) if several else METHOD_NAMES[method])
        looks[names[-1]] = line_look(method, rewind, later)
    table = rows.assign(series=names)
    averaged = table.groupby(["series", "x", "replicate"], as_index=False, sort=False)["value"].mean()
    return averaged, looks


def _paper_lines(values: pd.DataFrame) -> pd.DataFrame:
    curves = paper_curves(values)
    return curves.rename(columns={"curve": "series", "percent_remaining": "x"})[["series", "x", "value"]]


def _title(metric: str) -> str:
    return METRIC_NAMES[metric].partition(" (")[0].capitalize()
