"""The claims about IMP alone: that tickets at initialisation fail in deep networks, and that rewinding mends it.

They need IMP and the dense network and nothing else, which is recorded at larger scales than controls and further data
orders are.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from lth_core.config import EXTENT, Config, ConfigError
from lth_core.data import TITLES
from lth_core.presets import preset
from lth_core.report import paper_values, percent_remaining
from lth_core.report.verdicts import AS_ACCURATE, Verdict, difference, judge, log_ratio
from lth_core.study import plan, records

STABILITIES = {
    "l2_data_order": "data order, L2",
    "angle_data_order": "data order, angle",
    "l2_pruning": "pruning, L2",
    "angle_pruning": "pruning, angle",
}


class Paper:
    """The paper's numbers for a network and recipe, worded as a verdict's.

    Those of its tables, which are of one size, unless another `size`, in percent of the weights, is asked for. What
    rewinding does is read off the curves of its Figure 5, each measured from the accuracy with which it begins: they
    begin at dense networks of experiments of their own.
    """

    def __init__(self, config: Config, size: float | None = None) -> None:
        self.values = paper_values(network=config.network, recipe=config.recipe)
        self.size = size

    def gap(self, method: str) -> str:
        """How much more accurate a ticket at initialisation is."""
        if self.size is not None:
            return f"{self._change(False):+.1f}"
        return f"{self._mean('imp', 'test_accuracy') - self._mean(method, 'test_accuracy'):+.1f}"

    def ratio(self, metric: str) -> str:
        suspect = self.values.loc[self.values["metric"] == metric, "quality"].eq("table_suspect").any()
        ratio = self._mean("random_pruning", metric) / self._mean("imp", metric)
        return f"{ratio:.2f}x" + (" (misprint?)" if suspect else "")

    def gain(self) -> str:
        """How much more accurate rewinding makes a ticket."""
        return f"{self._change(True) - self._change(False):+.1f}"

    def match(self) -> str:
        """How much more accurate than the dense network it is then."""
        return f"{self._change(True):+.1f}"

    def _mean(self, method: str, metric: str) -> float:
        rows = self.values[(self.values["method"] == method) & (self.values["metric"] == metric)]
        return float(rows.loc[rows["figure"].isin(["fig2", "fig3", "fig10"]), "value"].iloc[0])

    def _change(self, rewound: bool) -> float:
        size = self.size
        if size is None:
            size = self.values.loc[self.values["figure"] == "fig3", "percent_remaining"].iloc[0]
        curve = self.values[(self.values["figure"] == "fig5") & ((self.values["rewind"] > 0) == rewound)]
        curve = curve.set_index("percent_remaining")["value"].sort_index()
        return float(curve.iloc[abs(curve.index - size).argmin()] - curve.iloc[-1])


def rewound_to(config: Config) -> int:
    """The rewinding iteration that stands for rewinding: the one whose accuracy curve is drawn, if it is asked for."""
    drawn = [k for k in config.curve_rewinds or () if k and k in config.rewinds]
    return (drawn or config.rewinds)[-1]


def imp_claims(config: Config, rows: pd.DataFrame, paper: Paper) -> list[Verdict]:
    """What the paper says of IMP, at the last level, in networks that fail at initialisation."""
    return [failure(config, rows, paper), *gains(config, rows, paper), steadier(config, rows, "l2_pruning")]


def failure(config: Config, rows: pd.DataFrame, paper: Paper) -> Verdict:
    """That tickets at initialisation are not what the dense network is."""
    lost = difference(rows, {"method": "imp", "rewind": 0, "level": config.levels}, {"method": "dense"})
    claim = "Tickets at initialisation are less accurate than the dense network (points)"
    return judge(claim, lost, paper=paper.gap("dense"), below=-AS_ACCURATE)


def gains(config: Config, rows: pd.DataFrame, paper: Paper) -> list[Verdict]:
    """What rewinding does for their accuracy."""
    k = rewound_to(config)
    initial = {"method": "imp", "rewind": 0, "level": config.levels}
    rewound = initial | {"rewind": k}
    better, equal = difference(rows, rewound, initial), difference(rows, rewound, {"method": "dense"})
    name = f"Tickets rewound to {k:,} are"
    return [
        judge(f"{name} more accurate than at initialisation (points)", better, paper=paper.gain(), above=0),
        judge(f"{name} as accurate as the dense network (points)", equal, paper=paper.match(), above=-AS_ACCURATE),
    ]


def steadier(config: Config, rows: pd.DataFrame, metric: str) -> Verdict:
    """What rewinding does for a stability of theirs."""
    k = rewound_to(config)
    initial = {"method": "imp", "rewind": 0, "level": config.levels}
    claim = f"Tickets rewound to {k:,} are more stable to {STABILITIES[metric]} than at initialisation (0 / {k:,})"
    nearer = log_ratio(rows, initial, initial | {"rewind": k}, metric=metric)
    return judge(claim, nearer, paper="no number", above=1, ratio=True)


def imp_alone(config: Config, levels: int) -> Config:
    """The part of a study that is IMP and nothing else, to a level."""
    return config.updated(levels=levels, methods=("imp",), compared_levels=(), orders=1)


def larger_scales(smallest: Config) -> Iterator[tuple[str, Config, pd.DataFrame]]:
    """Recorded studies of a network and recipe with longer trainings than `smallest`, the longest first: the scale, and
    IMP in as many replicates and levels as are recorded in full.
    """
    same = [
        config
        for config in records.studies(records.results_folder())
        if (config.network, config.recipe) == (smallest.network, smallest.recipe)
        and config.iterations > smallest.iterations
    ]
    for config in map(_as_its_preset_asks, sorted(same, key=lambda config: -config.iterations)):
        rows = records.read(records.results_folder(), config)[0]
        part = _imp_recorded(config.updated(rewinds=tuple({0: 0, rewound_to(config): 0})), rows)
        if part is not None:
            chosen = plan.select(rows, part)
            size = percent_remaining(chosen, part.levels)
            precision = "" if config.precision == "float32" else f", {config.precision}"
            yield f"{config.profile}, {TITLES[config.dataset]}{precision}, {size:.0f}% of the weights", part, chosen


def _as_its_preset_asks(config: Config) -> Config:
    """A recorded study with the rewinding iterations and levels of its profile: a file has those that were asked for
    first, or last. Studies of no preset are left as they are."""
    try:
        standard = preset(config.network, config.recipe, config.profile)
        return config.updated(**{name: getattr(standard, name) for name in EXTENT})
    except ConfigError:  # or of a training so short that the preset's iterations are beyond its end
        return config


def _imp_recorded(config: Config, rows: pd.DataFrame) -> Config | None:
    """What of IMP is recorded in full, whatever was asked for: the level and replicates that make the most of it."""
    choices = []
    for level in range(1, int(rows["level"].max()) + 1 if len(rows) else 1):
        alone = {int(r): imp_alone(config.updated(replicates=(int(r),)), level) for r in rows["replicate"].unique()}
        whole = tuple(sorted(replicate for replicate, part in alone.items() if not plan.missing(rows, part)))
        if whole:
            choices.append(imp_alone(config.updated(replicates=whole), level))
    return max(choices, key=lambda part: len(part.replicates) * part.levels, default=None)
