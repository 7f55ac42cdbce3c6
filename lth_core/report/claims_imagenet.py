"""The paper's claims about the ImageNet networks, pruned in one shot (its section 5), judged in our records."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lth_core.config import Config
from lth_core.report import paper_values
from lth_core.report.verdicts import AS_ACCURATE, Verdict, difference, judge, log_ratio

DATA_ORDER = {"l2_data_order": "L2", "angle_data_order": "angle"}


def one_shot_claims(config: Config, records: pd.DataFrame, *, rewound: int) -> list[Verdict]:
    """The claims about tickets of one-shot pruning at the compared level, the size that the paper's Figure 7 shows.

    `rewound` is the later rewinding iteration. The paper's numbers are points of top-1 accuracy, from its Figure 8.
    Stability is that of its Figures 7 and 12, whose values are not at hand.
    """
    level = config.last_compared
    size = round(100 * (config.densities or ())[level - 1])
    initial: dict[str, Any] = {"method": "imp", "rewind": 0, "level": level}
    ticket = initial | {"rewind": rewound}
    fresh = ticket | {"method": "random_reinit"}
    paper = _figure_8(config.network, size)
    name = f"One-shot tickets of {size}% of the weights, rewound to {rewound:,}, are"

    def gap(other: dict[str, Any], claim: str, number: str, above: float = 0) -> Verdict:
        return judge(f"{name} {claim} (points)", difference(records, ticket, other), paper=paper[number], above=above)

    found = [
        gap(initial, "more accurate than at initialisation", "initial"),
        gap({"method": "dense"}, "as accurate as the dense network", "dense", -AS_ACCURATE),
        gap(fresh, "more accurate than the same structure reinitialised", "fresh"),
    ]
    for metric, what in DATA_ORDER.items():
        claim = f"{name} more stable to data order, {what}, than at initialisation (0 / {rewound:,})"
        ratio = log_ratio(records, initial, ticket, metric=metric)
        found.append(judge(claim, ratio, paper="no number", above=1, ratio=True))
    return found


def _figure_8(network: str, size: float) -> dict[str, str]:
    """How much more accurate the paper's rewound tickets are than others, at a percentage of weights remaining.

    At initialisation the figure has tickets of ResNet-50 only, pruned iteratively: there, at the nearest size.
    """
    values = paper_values(network=network, figure="fig8")
    iterative = values["pruning"] == "iterative"
    once = values[~iterative].pivot_table("value", "percent_remaining", "method").reindex([100, size])
    ticket = once.loc[size, "imp"]
    gaps = {"dense": ticket - once.loc[100, "imp"], "fresh": ticket - once.loc[size, "random_reinit"]}
    numbers = {name: "no number" if pd.isna(gap) else f"{gap:+.1f}" for name, gap in gaps.items()}
    if not iterative.any():
        return numbers | {"initial": "no number"}
    both = values[iterative].pivot_table("value", "percent_remaining", "rewind").dropna()
    nearest = both.iloc[abs(both.index - size).argmin()]
    return numbers | {"initial": f"{nearest.iloc[-1] - nearest.iloc[0]:+.1f} (iterative)"}
