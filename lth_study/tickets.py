"""Tickets of a run store as folders that anyone can load, each with a card, for `lth tickets`; and the committed ones.

`lth_core.tickets` has the format. Here are the study's own facts, and the optimiser's moments by parameter.
`results/tickets/` holds what `pack` wrote of a few studies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lth_core import Mask, Ticket, subnetwork
from lth_core.tickets import Source
from lth_study import plan
from lth_study.commands import command_for
from lth_study.data import title
from lth_study.extents import Study
from lth_study.files import StoreError, read_json
from lth_study.measure import FILES
from lth_study.networks import build
from lth_study.plan import Distance
from lth_study.presets import changes, preset
from lth_study.records import results_file
from lth_study.report import METHOD_NAMES, METRIC_NAMES, NETWORK_NAMES
from lth_study.settings import Setting
from lth_study.store import StudyStore, Training, dense
from lth_study.training.updates import AVERAGE, MOMENTS, UPDATES, State, flattened, shaped
from lth_study.worker import in_order, initial, rewound

LICENCE = "MIT"
_L2 = ("l2_pruning", "l2_data_order")
KINDS = {"imp": "Lottery ticket", "random_pruning": "Random subnetwork"}
TERMS = (
    "accuracy is the percentage of the test images; the control is a random subnetwork with as many weights in every "
    "layer; stabilities are L2 distances and angles in degrees, over the surviving weights, to the dense network and "
    "between two data orders"
)
CITATION = """\
@misc{lth_core,
  title = {lth-core: a living reproduction of Stabilizing the Lottery Ticket Hypothesis},
  author = {{The lth-core developers}},
  year = {2026},
  note = {Version %s}
}

@misc{frankle2019stabilizing,
  title = {Stabilizing the Lottery Ticket Hypothesis},
  author = {Frankle, Jonathan and Dziugaite, Gintare Karolina and Roy, Daniel M. and Carbin, Michael},
  year = {2019},
  eprint = {1903.01611},
  archivePrefix = {arXiv}
}"""


def committed() -> Path:
    """The folder of the tickets that come with the repository. Raises `StoreError` where they did not come along."""
    return results_file("tickets")


def committed_table() -> pd.DataFrame:
    """The committed tickets, a row each, by study and folder: what their cards say, and the kilobytes they take."""
    rows = {}
    for file in sorted(committed().glob("*/*/ticket.json")):
        facts, size = read_json(file), sum(part.stat().st_size for part in file.parent.iterdir())
        about = facts["about"]
        distances = about["stability_to_pruning"], about["stability_to_data_order"]
        rows[file.parent.parent.name, file.parent.name] = {
            "weights left (%)": round(100 * facts["density"], 1),
            METRIC_NAMES["test_accuracy"]: about["accuracy"],
            "dense network's": about["dense_accuracy"],
            "random pruning's": about["control_accuracy"],
            **{METRIC_NAMES[name]: round(of["l2"], 1) for name, of in zip(_L2, distances, strict=True)},
            "kB": round(size / 1000),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["study", "ticket"])


def pack(study: Study, store: Path, destination: Path, trained: bool = False) -> list[Path]:
    """Write a folder for every ticket, and every random subnetwork, at the compared levels of a study.

    The folder is `<study>/<method>_rewind_<k>_level_<n>_replicate_<r>`. It holds the mask and the rewound state with
    the optimiser's moments; pruned weights and their moments are 0.0. With `trained`, it also holds the weights at the
    end of training. A training that diverged is left out. Returns the folders. Raises `StoreError` if the run store has
    no such training.
    """
    kept = StudyStore(store, study.setting)
    found = []
    for training in plan.trainings(study):
        here = training.method in ("imp", "random_pruning") and not training.order and not training.again
        if not here or training.level not in study.extent.compared or not kept.saves(training).complete:
            continue
        if kept.saves(training).result()["diverged_at"] is not None:
            continue
        name = f"{training.method}_rewind_{training.rewind}_level_{training.level:02d}_replicate_{training.replicate}"
        folder = destination / study.setting.name / name
        end = kept.saves(training).load_end() if trained else None
        _ticket(kept, training).save(folder, trained=end, about=_about(study, kept, training))
        found.append(folder)
    if not found:
        raise StoreError(
            f"{kept.folder} has no finished ticket at levels {list(study.extent.compared)}; train them with: "
            f"{command_for(study)}"
        )
    return found


def load(source: Source, setting: Setting) -> Ticket:
    """A packed ticket to train with `trainer(setting, ...)`: the moments are again one vector of all parameters."""
    ticket = Ticket.load(source)
    state = dict(ticket.weights)
    moments = state.pop("optimizer", {})
    parameters = [name for name, _ in build(setting).named_parameters()]
    for name, by_parameter in moments.items():
        whole = isinstance(by_parameter, Tensor)
        flat = by_parameter if whole else torch.cat([flattened(by_parameter[each]) for each in parameters])
        state[f"{MOMENTS}{name}"] = flat
    return replace(ticket, weights=state)


def _ticket(kept: StudyStore, training: Training) -> Ticket:
    """The ticket of a finished training, with the moments by parameter."""
    setting, model = kept.setting, build(kept.setting)
    mask = in_order(kept.saves(training).load_mask(), Mask.ones(model))
    w_k: State = initial(setting, training.replicate)
    if training.rewind:
        w_k = rewound(setting, kept.saves(dense(training.replicate)).load_state(training.rewind))
    ticket = subnetwork(w_k, mask, training.rewind, training.level)
    parameters = dict(model.named_parameters())
    weights: dict[str, Any] = {name: tensor for name, tensor in ticket.weights.items() if not name.startswith(MOMENTS)}
    moments = {}
    for name, vector in ticket.weights.items():
        if name in weights:
            continue
        if name not in (AVERAGE, UPDATES):
            pieces = vector.split([parameter.numel() for parameter in parameters.values()])
            vector = {each: shaped(piece, parameters[each]) for each, piece in zip(parameters, pieces, strict=True)}
            mask.apply_(vector)
        moments[name.removeprefix(MOMENTS)] = vector
    weights |= {"optimizer": moments} if moments else {}
    return Ticket(mask, weights, training.rewind, training.level)


def _about(study: Study, kept: StudyStore, training: Training) -> dict[str, Any]:
    """What the card tells: the training, its accuracy beside the dense network's and the control's, the stabilities."""
    setting, replicate = kept.setting, training.replicate
    result = kept.saves(training).result()
    made = result["provenance"]
    control = Training(replicate, "random_pruning", training.rewind, training.level, 0)
    others = {"dense_accuracy": dense(replicate), "control_accuracy": control}
    chosen = f"preset({setting.network!r}, {setting.recipe!r}, {setting.profile!r}).setting"
    standard, changed = preset(setting.network, setting.recipe, setting.profile), changes(setting)
    about: dict[str, Any] = {
        "kind": KINDS[training.method],
        "network": NETWORK_NAMES[setting.network],
        "method": METHOD_NAMES[training.method],
        "build": "from lth_study import networks, preset\n\n"
        f"model = networks.build({chosen}{f'.updated(**{changed})' if changed else ''})",
        "data": title(setting.dataset),
        "fingerprint": made["data_fingerprint"],
        "recipe": f"{setting.recipe} at the scale of the profile {setting.profile}",
        "iterations": setting.iterations,
        "seed": replicate,
        "order": training.order,
        "precision": setting.precision,
        "device": made["device"],
        "versions": {name: made[name] for name in ("lth_core", "torch", "python")},
        "digest": setting.digest(),
        "terms": TERMS,
        "accuracy": result["metrics"]["test_accuracy"],
        **{name: _accuracy(kept, other) for name, other in others.items() if _accuracy(kept, other) is not None},
        **_stabilities(kept, training),
        "command": _again(study, standard, changed, training),
        "licence": LICENCE,
        "citation": CITATION % made["lth_core"],
    }
    return about


def _again(study: Study, standard: Study, changed: Mapping[str, Any], training: Training) -> str:
    """The commands that train a ticket again and pack it, for a study that is the preset `standard` with `changed`.

    They name a folder without records: what is recorded is not trained. `lth tickets` packs the preset's figure.
    """
    chosen: dict[str, Any] = {"rewinds": (training.rewind,), "levels": training.level, "compared_levels": None}
    chosen["replicates"] = (training.replicate,)
    alone = study.only("stability").updated(**chosen), standard.only("stability").updated(**changed, **chosen)
    train, pack_it = (str(command_for(each, "stability")) for each in alone)
    return f"LTH_RESULTS=none {train}\n{pack_it.replace('lth run', 'lth tickets').replace(' --figure stability', '')}"


def _accuracy(kept: StudyStore, training: Training) -> float | None:
    folder = kept.saves(training)
    return folder.result()["metrics"].get("test_accuracy") if folder.complete else None


def _stabilities(kept: StudyStore, training: Training) -> dict[str, Mapping[str, float]]:
    """L2 distances and angles (degrees): to the dense network, and between data orders 0 and 1."""
    file = kept.folder / Path(training.folder).parent / FILES[Distance]
    measured = read_json(file) if file.exists() else {}
    pairs = {"stability_to_pruning": "0", "stability_to_data_order": "0-1"}
    return {
        name: {metric.partition("_")[0]: round(value, 4) for metric, value in measured[pair].items()}
        for name, pair in pairs.items()
        if pair in measured
    }
