"""Trainings and iterations of the experiments, counted from `plan` for the other costs and notebooks/costs.ipynb."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from lth_study.extents import Extent, Study
from lth_study.plan import length, trainings
from lth_study.presets import preset
from lth_study.report import NETWORK_NAMES
from lth_study.store import Training


def costs(study: Study) -> pd.DataFrame:
    """Trainings and iterations of every part of a network's study, one replicate, and of all parts together.

    *One by one*: every rewinding iteration of every part is a separate experiment, as in the paper's description. It
    has its own dense run and IMP chain, and reaches W_k by repeating the first k iterations. *Here*: one dense run
    gives W_k and the first mask for everything. Every training starts at iteration k, and parts share trainings.
    """
    study = study.updated(replicates=study.extent.replicates[:1])
    alone = {name: _one_by_one(study.only(name)) for name in study.extents}
    alone["all of it"] = [training for part in alone.values() for training in part]
    rows = {name: _row(alone[name], here, study) for name, here in shared_trainings(study).items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def costs_of_networks(profile: str) -> pd.DataFrame:
    """`costs` of every network's study with the standard recipe."""
    return pd.concat({name: costs(study) for name, study in standard_presets(profile).items()}, names=["network"])


def growth(study: Study) -> pd.DataFrame:
    """Trainings and iterations of a study's stability and accuracy: as it is, and with one setting doubled.

    The setting is the number of replicates, rewinding iterations or levels. Doubling rewinding iterations adds k + 1 to
    every k. Doubling levels doubles iterative pruning's levels, and adds half of every density to one-shot pruning.
    Comparisons at the last level move to the new last level.
    """
    setting = study.setting
    halves = setting.densities and (*setting.densities, *(density / 2 for density in setting.densities))

    def doubled(**changes: Callable[[Extent], object]) -> Study:
        extents = {
            name: extent.updated(**{field: change(extent) for field, change in changes.items()})
            for name, extent in study.extents.items()
        }
        return Study(setting.updated(densities=halves) if "levels" in changes else setting, extents)

    variants = {
        "as it is": study,
        "twice the replicates": doubled(replicates=lambda extent: 2 * len(extent.replicates)),
        "twice the rewinding iterations": doubled(rewinds=lambda extent: _with_the_next(extent.rewinds)),
        "twice the levels": doubled(levels=lambda extent: 2 * extent.levels),
    }
    columns = {}
    for name, variant in variants.items():
        parts = {part: shared_trainings(variant)[part] for part in ("stability", "accuracy")}
        counted = {
            part: {"trainings": len(needed), "iterations": sum(length(training, setting) for training in needed)}
            for part, needed in parts.items()
        }
        columns[name] = pd.DataFrame.from_dict(counted, orient="index")
    return pd.concat(columns, axis=1).rename_axis("part")


def growth_of_networks(profile: str) -> pd.DataFrame:
    """`growth` of every network's study with the standard recipe."""
    return pd.concat({name: growth(study) for name, study in standard_presets(profile).items()}, names=["network"])


def standard_presets(profile: str) -> dict[str, Study]:
    """Every network's preset at a profile, by the network's name."""
    return {name: preset(network, profile=profile) for network, name in NETWORK_NAMES.items()}


def shared_trainings(study: Study) -> dict[str, list[Training]]:
    """The trainings of every part of a study, and of all parts together without duplicates."""
    return {name: trainings(study.only(name)) for name in study.extents} | {"all of it": trainings(study)}


def _with_the_next(rewinds: Sequence[int]) -> tuple[int, ...]:
    return tuple(k for rewind in rewinds for k in (rewind, rewind + 1))


def _row(alone: Sequence[Training], here: Sequence[Training], study: Study) -> dict[str, float]:
    setting = study.setting
    before, after = len(alone) * setting.iterations, sum(length(training, setting) for training in here)
    return {
        "trainings, one by one": len(alone),
        "trainings, here": len(here),
        "iterations, one by one": before,
        "iterations, here": after,
        "share of the iterations": round(after / before, 2),
    }


def _one_by_one(part: Study) -> list[Training]:
    """The trainings of a part if its rewinding iterations share nothing, not even the dense run."""
    alone = [part.updated(rewinds=(rewind,)) for rewind in part.extent.rewinds]
    repetition = alone[:1]  # the noise floor is measured once
    return [t for each in alone for t in trainings(each) if not t.again or each in repetition]
