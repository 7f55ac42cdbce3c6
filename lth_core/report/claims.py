"""The paper's claims about each network and recipe, judged in our records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lth_core.config import IMAGENET_NETWORKS, METHODS, Config, ConfigError
from lth_core.data import TITLES
from lth_core.presets import preset, recipes
from lth_core.report import NETWORK_NAMES
from lth_core.report.claims_imagenet import one_shot_claims
from lth_core.report.claims_imp import (
    STABILITIES,
    Paper,
    failure,
    gains,
    imp_claims,
    larger_scales,
    rewound_to,
    steadier,
)
from lth_core.report.verdicts import AS_ACCURATE, Verdict, difference, judge, log_ratio, rank_correlation
from lth_core.study import plan, records
from lth_core.study.store import StudyStore

MATCHING_AT_INITIALISATION = {
    ("lenet_300_100", "standard"), ("resnet20", "low"), ("resnet20", "warmup"), ("vgg19", "warmup"),
}  # fmt: skip
"""Where the paper finds winning tickets: as accurate as the dense network without rewinding (its Figure 2)."""
STABLE_AT_INITIALISATION = MATCHING_AT_INITIALISATION | {("vgg19", "low")}
"""Where it finds tickets at initialisation that are more stable and more accurate than random pruning (Figure 3)."""

NO_MORE_ACCURATE = 0.5
"""Points within which two accuracies that the paper finds equal are taken for equal here."""
NO_MORE_STABLE = 1.25
"""The ratio up to which two distances that the paper finds equal are taken for equal here."""


def claims(config: Config, stability: pd.DataFrame) -> list[Verdict]:
    """The paper's claims about a network and recipe, judged at the last level of the records of its stability part.

    One-shot pruning is judged at the compared level; about ImageNet's networks pruned iteratively there are no claims.
    Where there are no records, the claims come with the verdict "not yet tested at this scale".
    """
    if config.network in IMAGENET_NETWORKS and config.densities is None:
        return []  # of iterative pruning the paper shows curves there, and tables of nothing
    if config.densities is not None:
        return one_shot_claims(config, stability, rewound=rewound_to(config))
    setting = (config.network, config.recipe)
    paper = Paper(config)
    ticket, random = _at_initialisation(config)
    dense = {"method": "dense"}

    def gap(other: dict[str, Any], claim: str, above: float = -math.inf, below: float = math.inf) -> Verdict:
        sample = difference(stability, ticket, other)
        return judge(f"{claim} (points)", sample, paper=paper.gap(other["method"]), above=above, below=below)

    def ratio(metric: str, claim: str, above: float, below: float = math.inf) -> Verdict:
        sample = log_ratio(stability, random, ticket, metric=metric)
        name = f"{claim} to {STABILITIES[metric]} (random / IMP)"
        return judge(name, sample, paper=paper.ratio(metric), above=above, below=below, ratio=True)

    if setting in MATCHING_AT_INITIALISATION:
        found = [gap(dense, "Tickets at initialisation are as accurate as the dense network", above=-AS_ACCURATE)]
    else:
        found = [failure(config, stability, paper)]
    if setting in STABLE_AT_INITIALISATION:
        found.append(gap(random, "Tickets at initialisation are more accurate than random pruning", above=0))
        found += [ratio(metric, "Tickets at initialisation are more stable", above=1) for metric in STABILITIES]
    else:
        claim, margin = "Tickets at initialisation are no more accurate than random pruning", NO_MORE_ACCURATE
        found.append(gap(random, claim, above=-margin, below=margin))
        claim, margin = "Tickets at initialisation are no more stable", NO_MORE_STABLE
        found += [ratio(metric, claim, above=1 / margin, below=margin) for metric in STABILITIES]
    if config.network == "lenet_300_100":
        for k in config.rewinds[1:]:
            claim = f"Rewinding to {k:,} instead of 0 changes a ticket's accuracy by less than 0.2 points"
            change = difference(stability, ticket | {"rewind": k}, ticket)
            found.append(judge(claim, change, paper="no number", above=-AS_ACCURATE, below=AS_ACCURATE))
    elif setting not in STABLE_AT_INITIALISATION and rewound_to(config):
        found += _about_rewinding(config, stability, paper)
    return found


def _about_rewinding(config: Config, stability: pd.DataFrame, paper: Paper) -> list[Verdict]:
    """What rewinding does for networks whose tickets at initialisation do not work (the paper's section 4)."""
    k = rewound_to(config)
    rewound: dict[str, Any] = {"method": "imp", "rewind": k, "level": config.levels}
    random = rewound | {"method": "random_pruning"}
    found = gains(config, stability, paper)
    for metric in ("l2_data_order", "l2_pruning"):
        claim = f"Tickets rewound to {k:,} are more stable to {STABILITIES[metric]} than random pruning (random / IMP)"
        ratio = log_ratio(stability, random, rewound, metric=metric)
        found += [steadier(config, stability, metric), judge(claim, ratio, paper="no number", above=1, ratio=True)]
    return [
        *found,
        *(
            judge(
                f"Over k, IMP's accuracy rises as its L2 distance falls: {STABILITIES[metric]} (rank correlation)",
                rank_correlation(stability, level=config.levels, metric=metric), paper="no number", below=0,
            )
            for metric in ("l2_data_order", "l2_pruning")
        ),
    ]  # fmt: skip


def stability_ratios(configs: Sequence[Config], records: pd.DataFrame) -> pd.DataFrame:
    """How much more stable tickets at initialisation are than random subnetworks, for each recipe, beside the paper.

    The quotients of Figure 3: the distance of random subnetworks divided by that of tickets, at the last level.
    """
    rows = []
    for config in configs:
        ticket, random = _at_initialisation(config)
        own = records[records["recipe"] == config.recipe]
        for metric, what in STABILITIES.items():
            sample = log_ratio(own, random, ticket, metric=metric)
            found = judge(what, sample, paper=Paper(config).ratio(metric), ratio=True)
            rows.append({"recipe": config.recipe, "stability to": what} | vars(found))
    table = pd.DataFrame(rows).set_index(["recipe", "stability to"])
    return table[["paper", "ours", "interval", "replicates"]]


def _at_initialisation(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where the records of a ticket at initialisation are, and of the random subnetwork of its size."""
    ticket = {"method": "imp", "rewind": 0, "level": config.levels}
    return ticket, ticket | {"method": "random_pruning"}


def claims_of_networks(networks: Sequence[str]) -> pd.DataFrame:
    """The claims about all recipes of these networks, each at the largest scale that is recorded, as a table.

    Before them stand the claims about accuracy alone at every larger scale at which IMP is recorded without controls.
    """
    if not networks or isinstance(networks, str):
        raise ConfigError(f"networks: {networks!r} is not a list of networks; expected one like ['resnet20']")
    rows = []
    for network in networks:
        for recipe in recipes(network):
            config, stability = largest_recorded(network, recipe)
            scale = f"{config.profile}, {TITLES[config.dataset]}" if len(stability) else ""
            about = {"network": NETWORK_NAMES[network], "recipe": recipe}
            fails = (network, recipe) not in STABLE_AT_INITIALISATION and config.densities is None
            if len(stability) and fails:
                for larger, part, imp in larger_scales(config):
                    size = 100 * float(imp["density"].min())
                    found = imp_claims(part, imp, Paper(part, size))
                    rows += [about | {"scale": larger} | vars(verdict) for verdict in found]
            about |= {"scale": scale}
            rows += [about | vars(verdict) for verdict in claims(config, stability)]
    return pd.DataFrame(rows).set_index(["network", "recipe", "scale", "claim"])


def largest_recorded(network: str, recipe: str) -> tuple[Config, pd.DataFrame]:
    """The largest scale at which the stability part of a study is recorded, as much of it as is, and its records.

    Looks from the largest profile down, with the data set of the network before its stand-ins. Every control that is
    recorded at the compared levels is among the records. Where nothing is recorded: the largest profile, no records.
    """
    scales = _scales(network, recipe)
    for config in scales:
        for dataset in (config.dataset, *(name for name in TITLES if name != config.dataset)):
            there = config.updated(dataset=dataset)
            rows = records.known(StudyStore(records.store_folder(), there))[0]
            recorded = _recorded(there, rows)
            if recorded is not None:
                return recorded, plan.select(rows, recorded.updated(methods=METHODS))
    return scales[0], pd.DataFrame(columns=records.COLUMNS)


def _scales(network: str, recipe: str) -> list[Config]:
    """The settings at every profile at which claims are judged, the largest first."""
    profiles = ("paper", "imagenette", "laptop") if network in IMAGENET_NETWORKS else ("paper", "laptop")
    return [preset(network, recipe, profile) for profile in profiles]


def _recorded(config: Config, rows: pd.DataFrame) -> Config | None:
    """The replicates and rewinding iterations, the first among them, that are recorded in full: as many as possible."""
    first, seen = config.rewinds[0], sorted(map(int, rows["replicate"].unique()))

    def done(replicate: int, k: int) -> bool:
        return not plan.missing(rows, config.updated(replicates=(replicate,), rewinds=tuple({first: 0, k: 0})))

    complete = {k: {replicate for replicate in seen if done(replicate, k)} for k in config.rewinds}
    choices = [(shared, [k for k, has in complete.items() if shared <= has]) for shared in complete.values() if shared]
    if not complete[first] or not choices:
        return None
    replicates, rewinds = max(choices, key=lambda choice: len(choice[0]) * len(choice[1]))
    return config.updated(replicates=tuple(sorted(replicates)), rewinds=tuple(rewinds))
