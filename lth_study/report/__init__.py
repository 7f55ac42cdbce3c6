"""Tables, captions and names that notebooks show: records as `run` returns them, beside the paper's numbers.

The modules here share these functions. `charts`, `drawing` and `publish` make figures, `differences` and `dense`
compare, `claims` judges.
"""

from __future__ import annotations

import math
from numbers import Integral
from statistics import fmean
from typing import Any

import pandas as pd

from lth_study.data import title
from lth_study.methods import TABLE
from lth_study.presets import changes
from lth_study.records import kinds, results_file
from lth_study.settings import Setting, SettingError

METHOD_NAMES = {"dense": "dense network"} | {name: method.title for name, method in TABLE.items()}
METRIC_NAMES = {
    "test_accuracy": "test accuracy (%)",
    "l2_data_order": "L2 between data orders",
    "l2_pruning": "L2 to the dense network",
    "angle_data_order": "angle between data orders (°)",
    "angle_pruning": "angle to the dense network (°)",
    "barrier_data_order_test_mean": "error barrier between data orders (points)",
    "barrier_pruning_test_mean": "error barrier to the dense network (points)",
    "barrier_level_test_mean": "error barrier to the level before (points)",
}
NETWORK_NAMES = {
    "lenet_300_100": "LeNet-300-100",
    "resnet20": "ResNet-20",
    "vgg19": "VGG-19",
    "resnet50": "ResNet-50",
    "inception_v3": "Inception-v3",
    "squeezenet1_0": "SqueezeNet 1.0",
}

_IN_THE_FILE = {"network": {"squeezenet": "squeezenet1_0"}, "metric": {"top1_accuracy": "test_accuracy"}}
_ONE_SHOT = "_one_shot"


def paper_values(**where: Any) -> pd.DataFrame:
    """The paper's numbers (`results/paper_values.csv`), filtered by column: `paper_values(figure="fig3")`.

    Names are this study's. The file's `imp_one_shot` becomes the method `imp` with `pruning` "one-shot".
    """
    values = pd.read_csv(results_file("paper_values.csv")).replace(_IN_THE_FILE)
    once = values["method"].str.endswith(_ONE_SHOT)
    values["pruning"] = once.map({True: "one-shot", False: "iterative"})
    values["method"] = values["method"].str.removesuffix(_ONE_SHOT)
    for column, value in where.items():
        values = values[values[column] == value]
    return values.reset_index(drop=True)


def paper_curves(values: pd.DataFrame) -> pd.DataFrame:
    """The paper's accuracy curves (Figures 5 and 8), in points less its dense network's accuracy.

    The column `curve` names each curve by method and rewinding. A curve with a value at 100% of the weights is measured
    from that value. Any other curve is measured from the mean of those values.
    """
    values = values.sort_values("percent_remaining", ascending=False)
    dense = values.loc[values["percent_remaining"] == 100, "value"].mean()
    first = values.groupby(["method", "pruning", "rewind"], dropna=False)[["percent_remaining", "value"]]
    first = first.transform("first")
    start = first["value"].where(first["percent_remaining"] == 100, dense)
    several = values["pruning"].eq("one-shot").any()
    names = [_curve_name(value, f"{value.pruning} " if several else "") for value in values.itertuples()]
    curves = values.assign(curve=names, value=values["value"] - start)
    return curves[["curve", "percent_remaining", "value"]].reset_index(drop=True)


def _curve_name(value: Any, pruning: str) -> str:
    name = (pruning if value.method == "imp" else "") + METHOD_NAMES[value.method]
    if pd.isna(value.rewind):
        return name
    return f"{name}, {'epoch' if value.rewind_unit == 'epoch' else 'k ='} {value.rewind:,.0f}"


def accuracies(records: pd.DataFrame) -> pd.DataFrame:
    """One test accuracy for each network: the mean over its data orders."""
    rows = records[records["metric"] == "test_accuracy"]
    same = [name for name in rows if name not in ("order", "value", "device", "finished")]
    return rows.groupby(same, sort=False, as_index=False)["value"].mean()


def relative_to_dense(records: pd.DataFrame) -> pd.DataFrame:
    """Test accuracies in points, less the dense network's accuracy of the same recipe and replicate."""
    rows = accuracies(records)
    same = ["recipe", "replicate"]
    dense = rows.loc[rows["method"] == "dense", [*same, "value"]]
    rows = rows.merge(dense, how="left", on=same, suffixes=("", "_dense"))
    return rows.assign(value=rows["value"] - rows["value_dense"]).drop(columns="value_dense")


def percent_remaining(records: pd.DataFrame, level: int) -> float:
    """The percentage of prunable weights that remain at a level. Raises `ValueError` if the level has no records."""
    rows = not_empty(records[records["level"] == level], records, f"at level {level}")
    return 100 * float(rows["density"].iloc[0])


def not_empty(rows: pd.DataFrame, records: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows of records that a page shows. Raises `ValueError` if there are none; the cause may be divergence."""
    if len(rows):
        return rows
    diverged = int((records["metric"] == "diverged").sum())
    why = f", since {_count(diverged, 'training')} diverged: lower learning_rate" if diverged else ""
    raise ValueError(f"nothing is recorded {where}{why}")


def gaps_beside_paper(records: pd.DataFrame, paper: pd.DataFrame, *, each: bool = False) -> pd.DataFrame:
    """Accuracies in points less the dense network's, ours beside the paper's: a row for each percentage remaining.

    `paper` are values of one figure. Percentages are rounded to whole ones. Ours are means over replicates, or with
    `each` every replicate's value.
    """
    ours = relative_to_dense(records).query("method != 'dense'")
    line = ours["method"].map(METHOD_NAMES) + ours["rewind"].map(", k = {:,}".format)
    ours = ours.assign(curve=line, percent_remaining=(100 * ours["density"]).round())
    curves = paper_curves(paper)
    curves = curves[curves["percent_remaining"] < 100].assign(percent_remaining=curves["percent_remaining"].round())
    here, theirs = (
        rows.groupby(["percent_remaining", "curve"], sort=False)["value"].agg(list).unstack() for rows in (ours, curves)
    )
    table = pd.concat({"here": here, "paper": theirs.reindex(here.index)}, axis=1).sort_index(ascending=False)
    table = table.rename_axis(index="weights remaining (%)", columns=["", "curve"])

    def text(gaps: object) -> str:
        if not isinstance(gaps, list):
            return ""
        return ", ".join(f"{gap:+.1f}" for gap in (sorted(gaps) if each else [fmean(gaps)]))

    return table.map(text)


def caption(records: pd.DataFrame, *settings: Setting) -> str:
    """The caption of a figure: network, data, scale, replicates and device.

    Several settings may differ in their recipe only. Raises `ValueError` if the records are of several data sets.
    """
    if not len(records):
        return "Nothing is recorded yet."
    dataset = one_dataset(records)
    devices = ", ".join(kinds(records["device"].unique()))
    first, recipes = settings[0], [setting.recipe for setting in settings]
    width = f" of {first.width:g} times the width" if first.width != 1 else ""
    size = f" reduced to {first.image_size} pixels" if first.image_size is not None else ""
    precision = "" if first.precision == "float32" else f" in {first.precision}"
    once = ", one-shot pruning" if first.densities is not None else ""
    which = f"{recipes[0]} recipe" if len(recipes) == 1 else f"{', '.join(recipes[:-1])} and {recipes[-1]} recipes"
    shared = " Reinitialised networks of a replicate share one fresh initialisation."
    averaged = " It is scored on averaged weights, and pruned and compared on raw ones."
    return (
        f"{NETWORK_NAMES[first.network]}{width} on {title(dataset)}{size}{once}, "
        f"{which}, {first.profile} profile "
        f"({first.iterations:,} iterations of batch {first.batch_size}), "
        f"{_replicates(records)}, trained{precision} on {devices}{_changed(first)}."
        + (averaged if first.weight_average else "")
        + (shared if records["method"].str.contains("reinit").any() else "")
    )


def one_dataset(records: pd.DataFrame) -> str:
    """The data set of all records. Raises `ValueError` if there are several: their values cannot be compared."""
    first, *others = dict.fromkeys(map(str, records["dataset"]))
    if others:
        names = ", ".join(title(name) for name in (first, *others))
        raise ValueError(
            f"these records are of several data sets ({names}): some may come from a stand-in for a missing data set. "
            "Set dataset to one that is available here, and train on it what is missing"
        )
    return first


_IN_CAPTIONS = {"dataset", "width", "image_size", "iterations", "batch_size", "precision", "densities"}


def _changed(setting: Setting) -> str:
    """The fields that differ from the preset, without those in `_IN_CAPTIONS`, as text for a caption."""
    try:
        changed = {name: value for name, value in changes(setting).items() if name not in _IN_CAPTIONS}
    except SettingError:
        return ""
    return f", with {', '.join(f'{name} = {value!r}' for name, value in changed.items())}" if changed else ""


def beside_paper(records: pd.DataFrame, *, level: int, rewind: int, paper: pd.DataFrame) -> pd.DataFrame:
    """A row for each of the paper's values: ours (mean, smallest and largest, number of samples), theirs, the gap."""
    rows = []
    for value in paper.itertuples():
        at = (0, 0) if value.method == "dense" else (level, rewind)
        ours = records[
            (records["method"] == value.method)
            & (records["metric"] == value.metric)
            & (records["level"] == at[0])
            & (records["rewind"] == at[1])
        ]
        sample = (accuracies(ours) if value.metric == "test_accuracy" else ours)["value"]
        rows.append(
            {
                "metric": METRIC_NAMES[value.metric],
                "method": METHOD_NAMES[value.method],
                "ours": mean_and_range(sample),
                "samples": len(sample),
                "paper": f"{value.value:.1f} ({value.low:.1f} to {value.high:.1f})",
                "ours - paper": f"{sample.mean() - value.value:+.1f}" if len(sample) else "",
                "ours / paper": f"{sample.mean() / value.value:.2f}" if len(sample) else "",
            }
        )
    return pd.DataFrame(rows).set_index(["metric", "method"])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: thousands separated, floats to four digits, NaN left empty."""

    def text(value: object) -> object:
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{float(f'{value:.4g}'):,.10g}"
        return f"{value:,}" if isinstance(value, Integral) else value

    return table.map(text)


def mean_and_range(sample: pd.Series) -> str:
    """The mean of a sample, with its smallest and largest value in brackets."""
    if not len(sample):
        return "not recorded"
    return f"{sample.mean():.1f} ({sample.min():.1f} to {sample.max():.1f})"


def _replicates(records: pd.DataFrame) -> str:
    """The number of replicates with values, and of trainings that diverged."""
    diverged = records["metric"] == "diverged"
    count = _count(records.loc[~diverged, "replicate"].nunique(), "replicate")
    return f"{count} ({_count(int(diverged.sum()), 'training')} diverged)" if diverged.any() else count


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
