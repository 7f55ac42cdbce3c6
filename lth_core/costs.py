"""What the experiments cost, in trainings and iterations: done one by one, and done with nothing trained twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from lth_core.config import Config
from lth_core.presets import figures, preset
from lth_core.records import trainings
from lth_core.report import NETWORK_NAMES
from lth_core.store import Training


def costs(config: Config) -> pd.DataFrame:
    """Trainings and iterations of every part of a network's study, one replicate, and of all parts together.

    *One by one* is what the paper's description amounts to when every rewinding iteration of every part is an
    experiment of its own: it has its own dense run, its own IMP chain for the masks, and W_k is reached by repeating
    the first k iterations. *Here*: one dense run for everything, W_k and the first mask taken from it, every training
    from iteration k on, and what two parts have in common trained once.
    """
    config = config.updated(replicates=config.replicates[:1])
    parts = figures(config)
    rows = {name: _row(_one_by_one(part), trainings(part), config) for name, part in parts.items()}
    alone = [training for part in parts.values() for training in _one_by_one(part)]
    together = dict.fromkeys(training for part in parts.values() for training in trainings(part))
    rows["all of it"] = _row(alone, together, config)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def costs_of_networks(profile: str) -> pd.DataFrame:
    """The costs of every network's study with the standard recipe, as a table."""
    tables = {NETWORK_NAMES[n]: costs(preset(n, profile=profile)) for n in ("lenet_300_100", "resnet20", "vgg19")}
    return pd.concat(tables, names=["network"])


def _row(alone: Sequence[Training], here: Iterable[Training], config: Config) -> dict[str, float]:
    here = list(here)
    before, after = len(alone) * config.iterations, sum(_iterations(training, config) for training in here)
    return {
        "trainings, one by one": len(alone),
        "trainings, here": len(here),
        "iterations, one by one": before,
        "iterations, here": after,
        "share of the iterations": round(after / before, 2),
    }


def _one_by_one(config: Config) -> list[Training]:
    """The trainings of a part whose rewinding iterations share nothing, not even the dense run."""
    alone = [config.updated(rewinds=(rewind,), curve_rewinds=None) for rewind in config.rewinds]
    repetition = alone[:1]  # the noise floor is measured once
    return [t for part in alone for t in trainings(part) if not t.again or part in repetition]


def _iterations(training: Training, config: Config) -> int:
    """How long a training is here."""
    if training.method == "random_reinit" and config.reinit_length == "full":
        return config.iterations
    return config.iterations - training.rewind
