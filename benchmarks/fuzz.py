"""Random sets of parameters, through papermill's cell, the command line and the package: a study or one clear refusal.

A set is a preset with random values of its fields: the preset's own, sensible ones, and nonsense of every type. What
is accepted must have a plan, be the same study in all three ways, and have a command that makes it again. A few are
trained, and a few go through papermill with a kernel of their own.
"""

from __future__ import annotations

import io
import json
import math
import random
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import papermill
from ground import DONE, NAMED, Ground, Tally, ended, sentence
from papermill.translators import PythonTranslator
from traitlets.config import Config

from lth_study import configure, plan, preset
from lth_study.commands import command_for, study_of
from lth_study.extents import Extent, Study
from lth_study.files import project_folder
from lth_study.methods import TABLE
from lth_study.presets import profiles, recipes
from lth_study.settings import DATASETS, LABELS, Setting

NETWORKS = ("lenet_300_100", "resnet20", "vgg19", "resnet50", "inception_v3", "squeezenet1_0")
FIELDS = [name for name in (*Setting.model_fields, *Extent.model_fields) if name not in ("network", *LABELS)]
OPTIONS = ("rewinds", "levels", "replicates", "orders", "dataset")
NONSENSE = ("", "text", "null", "1,2", "[0.5", "../..", -1, 0, 1, 3, 1.5, 1e300, math.inf, math.nan, True, [], [0],
            [1, 1], ["a"], [None], {}, {"a": 1}, 2**70, "é\n;")  # fmt: skip
CHOICES: dict[str, tuple[Any, ...]] = {
    "dataset": DATASETS,
    "optimizer": ("adam", "momentum", "nesterov", "rmsprop"),
    "pruning_scope": ("layerwise", "global"),
    "precision": ("float32", "bfloat16", "tf32"),
    "rewind_optimizer": ("restored", "fresh"),
    "reinit_length": ("full", "remaining"),
    "batch_norm_scale": ("uniform", "one"),
    "weight_decay_on": ("all", "convolutions"),
    "methods": (*([name] for name in TABLE), list(TABLE)),
    "rewinds": ([0], [0, 2], [3], 2),
    "replicates": (1, 2, [2, 5]),
    "drops": ([], [1], [1, 3]),
    "densities": ([0.5], [0.5, 0.2], "null"),
    "compared_levels": ("all", [], [1], [1, 2]),
}
"""Field -> sensible values, where numbers are not."""


def preset_of(chance: random.Random) -> dict[str, str]:
    """A network, a recipe and a profile of it: mostly the smallest."""
    network = chance.choice(NETWORKS)
    profile = "smoke" if chance.random() < 0.7 else chance.choice(profiles(network))
    return {"network": network, "recipe": chance.choice(recipes(network)), "profile": profile}


def drawn(chance: random.Random) -> tuple[dict[str, str], dict[str, Any]]:
    """A preset, and values for some of its fields."""
    values = {}
    for name in chance.sample(FIELDS, chance.choice((0, 1, 1, 2, 2, 3, 4))):
        numbers = (1, 2, 4, 0.1, 0.5, 0.9, True, False)
        values[name] = chance.choice(NONSENSE if chance.random() < 0.2 else CHOICES.get(name, numbers))
    return preset_of(chance), values


def by_package(names: Mapping[str, str], values: Mapping[str, Any]) -> Study:
    return preset(**names).updated(**{name: None if value == "null" else value for name, value in values.items()})


def by_notebook(names: Mapping[str, str], values: Mapping[str, Any]) -> Study:
    """What papermill writes into the cell after the parameters, run and checked as a notebook does."""
    namespace: dict[str, Any] = {}
    exec(PythonTranslator.codify({**names, **values}), namespace)
    namespace.pop("__builtins__")
    return configure(namespace)[0]


def by_command_line(names: Mapping[str, str], values: Mapping[str, Any]) -> Study:
    """What `lth` makes of its options."""
    own: dict[str, Any] = dict.fromkeys(OPTIONS) | {name: values[name] for name in OPTIONS if name in values}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    for name in ("rewinds", "replicates", "dataset"):  # text; the command line itself reads whole numbers
        own[name] = texts.get(name)
    others = [f"{name}={text}" for name, text in texts.items() if name not in OPTIONS]
    return study_of(**names, figure=None, **own, settings=others)


def made_again(study: Study) -> Study:
    """The study that its command makes."""
    words = shlex.split(str(command_for(study)))
    words = words[: words.index("&&")] if "&&" in words else words
    options: dict[str, Any] = dict.fromkeys(("figure", *OPTIONS))
    settings = []
    for name, value in zip(words[3::2], words[4::2], strict=True):
        if name == "--set":
            settings.append(value)
        else:
            options[name.removeprefix("--")] = int(value) if name in ("--levels", "--orders") else value
    names = {name: options.pop(name) for name in LABELS}
    return study_of(words[2], **names, **options, settings=settings)


WAYS = {"package": by_package, "notebook": by_notebook, "command line": by_command_line}


def parameters(ground: Ground, rounds: int, chance: random.Random) -> Tally:
    """Sets in this process, half of them one field with a nonsense value. A set counts as recovered if all three ways
    agree about it."""
    tally = Tally()
    alone = [(preset_of(chance), {name: value}) for name in FIELDS for value in NONSENSE]
    sets = chance.sample(alone, min(len(alone), rounds // 2))
    sets += [drawn(chance) for _ in range(rounds - len(sets))]
    for names, values in sets:
        what, made = f"{names} {values}", dict[str, Study]()
        tally.struck += 1
        tally.recovered += 1
        for way, make in WAYS.items():
            try:
                made[way] = make(names, values)
            except Exception as error:
                tally.named += way == "package"
                if not sentence(error):
                    tally.failures.append(f"{way}: {what}: {error!r}")
        problem = wrong(list(made.values()))
        if ("notebook" in made) != ("command line" in made) or ("package" in made and "notebook" not in made):
            problem = "the ways do not agree"
        if problem is not None:
            tally.recovered -= 1
            tally.failures.append(f"{', '.join(made)}: {what}: {problem}")
    return tally


def wrong(studies: list[Study]) -> str | None:
    """What is wrong with the studies that the ways made of one set."""
    for study in studies:
        try:
            plan.trainings(study)
            plan.distances(study)
            plan.barriers(study)
            if len(study.extents) == len(preset(*(getattr(study.setting, n) for n in ("network", *LABELS))).extents):
                again = made_again(study)
                if again.setting != study.setting or again.extent != study.extent:
                    return f"its command makes another study: {command_for(study)}"
        except Exception as error:
            return repr(error)
    return None if all(study == studies[0] for study in studies) else "the ways make different studies of it"


def trained(ground: Ground, rounds: int, chance: random.Random) -> Tally:
    """Sets of LeNet that are accepted, trained for a few iterations: an end, or one clear refusal."""
    tally = Tally()
    while tally.struck < rounds:
        _, values = drawn(chance)
        names = {"network": "lenet_300_100", "recipe": "standard", "profile": "smoke"}
        try:
            study = by_package(names, values | {"iterations": 4, "rewinds": [0, 2], "dataset": "mnist_embedded"})
            study = study.only("stability").updated(levels=1, orders=1, replicates=1)
        except ValueError:
            continue
        store = ground.new()
        code, said = ended(ground.start(store, study=study))
        tally.struck += 1
        tally.named += code == NAMED
        tally.recovered += code == DONE
        if code not in (DONE, NAMED):
            tally.failures.append(f"{values}: status {code}, {said}")
        ground.remove(store)
    return tally


def by_papermill(ground: Ground, rounds: int, chance: random.Random) -> Tally:
    """Values for the parameters of notebooks, in kernels: executed, or stopped in the cell that checks them."""
    tally, books = Tally(), sorted((project_folder() / "notebooks").glob("*.ipynb"))
    for _ in range(rounds):
        book = chance.choice(books)
        name = chance.choice([*papermill.inspect_notebook(str(book)), "bogus"])
        value = chance.choice([value for value in NONSENSE if value not in ("", [])])
        tally.struck += 1
        with tempfile.TemporaryDirectory() as folder:
            paths = {"transport": "ipc", "ip": f"{folder}/kernel"}
            sockets = Config(dict.fromkeys(("KernelManager", "AsyncKernelManager"), paths))
            try:
                made = str(Path(folder, "made.ipynb"))
                with patch.object(sys, "stderr", io.StringIO()):
                    papermill.execute_notebook(str(book), made, {name: value}, progress_bar=False, config=sockets)
                tally.recovered += 1
            except papermill.PapermillExecutionError as error:
                clear = error.ename in ("SettingError", "StoreError", "MissingRecords", "ValueError", "DataError")
                tally.named += clear
                if not clear:
                    tally.failures.append(f"{book.stem}: {name}={value!r}: {error.ename}: {error.evalue}")
    return tally


KINDS: dict[str, tuple[int, Callable[[Ground, int, random.Random], Tally]]] = {
    "accepted or refused": (1_000, parameters),
    "trained": (50, trained),
    "papermill": (20, by_papermill),
}
"""Kind -> rounds in a campaign, and what draws them."""
