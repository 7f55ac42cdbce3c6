"""Trainings and iterations of the experiments, counted from `plan` for the other costs and notebooks/costs.ipynb."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lth_study.plan import length, trainings
from lth_study.presets import figures, preset
from lth_study.report import NETWORK_NAMES
from lth_study.settings import Config
from lth_study.store import Training


def costs(config: Config) -> pd.DataFrame:
    """Trainings and iterations of every part of a network's study, one replicate, and of all parts together.

    *One by one*: every rewinding iteration of every part is a separate experiment, as in the paper's description. It
    has its own dense run and IMP chain, and reaches W_k by repeating the first k iterations. *Here*: one dense run
    gives W_k and the first mask for everything. Every training starts at iteration k, and parts share trainings.
    """
    config = config.updated(replicates=config.replicates[:1])
    alone = {name: _one_by_one(part) for name, part in figures(config).items()}
    alone["all of it"] = [training for part in alone.values() for training in part]
    rows = {name: _row(alone[name], here, config) for name, here in shared_trainings(config).items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def costs_of_networks(profile: str) -> pd.DataFrame:
    """`costs` of every network's study with the standard recipe."""
    return pd.concat({name: costs(config) for name, config in standard_presets(profile).items()}, names=["network"])


def growth(config: Config) -> pd.DataFrame:
    """Trainings and iterations of a study's stability and accuracy: as it is, and with one setting doubled.

    The setting is the number of replicates, rewinding iterations or levels. Doubling rewinding iterations adds k + 1 to
    every k. Doubling levels doubles iterative pruning's levels, and adds half of every density to one-shot pruning.
    Comparisons at the last level move to the new last level.
    """
    halves = config.densities and (*config.densities, *(density / 2 for density in config.densities))
    curve = config.curve_levels and 2 * config.curve_levels
    doubled = {
        "as it is": config,
        "twice the replicates": config.updated(replicates=2 * len(config.replicates)),
        "twice the rewinding iterations": config.updated(
            rewinds=_with_the_next(config.rewinds),
            curve_rewinds=_with_the_next(config.curve_rewinds or config.rewinds[:1]),
        ),
        "twice the levels": config.updated(levels=2 * config.levels, curve_levels=curve, densities=halves),
    }
    columns = {}
    for name, study in doubled.items():
        parts = {part: shared_trainings(study)[part] for part in ("stability", "accuracy")}
        counted = {
            part: {"trainings": len(needed), "iterations": sum(length(training, study) for training in needed)}
            for part, needed in parts.items()
        }
        columns[name] = pd.DataFrame.from_dict(counted, orient="index")
    return pd.concat(columns, axis=1).rename_axis("part")


def growth_of_networks(profile: str) -> pd.DataFrame:
    """`growth` of every network's study with the standard recipe."""
    return pd.concat({name: growth(config) for name, config in standard_presets(profile).items()}, names=["network"])


def standard_presets(profile: str) -> dict[str, Config]:
    """Every network's preset at a profile, by the network's name."""
    return {name: preset(network, profile=profile) for network, name in NETWORK_NAMES.items()}


def shared_trainings(config: Config) -> dict[str, list[Training]]:
    """The trainings of every part of a study, and of all parts together without duplicates."""
    parts = {name: trainings(part) for name, part in figures(config).items()}
    return parts | {"all of it": list(dict.fromkeys(training for part in parts.values() for training in part))}


def _with_the_next(rewinds: Sequence[int]) -> tuple[int, ...]:
    return tuple(k for rewind in rewinds for k in (rewind, rewind + 1))


def _row(alone: Sequence[Training], here: Sequence[Training], config: Config) -> dict[str, float]:
    before, after = len(alone) * config.iterations, sum(length(training, config) for training in here)
    return {
        "trainings, one by one": len(alone),
        "trainings, here": len(here),
        "iterations, one by one": before,
        "iterations, here": after,
        "share of the iterations": round(after / before, 2),
    }


def _one_by_one(config: Config) -> list[Training]:
    """The trainings of a part if its rewinding iterations share nothing, not even the dense run."""
    alone = [config.updated(rewinds=(rewind,), curve_rewinds=None) for rewind in config.rewinds]
    repetition = alone[:1]  # the noise floor is measured once
    return [t for part in alone for t in trainings(part) if not t.again or part in repetition]
