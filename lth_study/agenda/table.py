"""What of each part is not recorded, what it costs on a device, and how many claims it would decide."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lth_study import plan, records
from lth_study.agenda.parts import Part
from lth_study.costs.updates import seconds_per_update
from lth_study.report.claims import Claim
from lth_study.report.effects import parse
from lth_study.settings import Config
from lth_study.store import StudyStore, Training, dense

Need = tuple[str, Training]
"""A training of the study of that name."""


class Study(NamedTuple):
    """What is there of a study: records, provenance, and the trainings that are complete in the run store."""

    values: pd.DataFrame
    provenance: pd.DataFrame
    complete: frozenset[Training]

    def elsewhere(self, device: str) -> dict[int, str]:
        """The replicates that other devices made, and which devices. One kind of processor makes a replicate."""
        made = self.provenance.groupby("replicate")["device"].agg(lambda names: " and ".join(sorted(set(names))))
        return {int(replicate): names for replicate, names in made.items() if names != device}

    def made(self) -> dict[Training, str]:
        """The device of every training that has an accuracy."""
        finished = self.values[self.values["metric"] == "test_accuracy"]
        both = finished.merge(self.provenance, on=records.PROVENANCE_KEY)
        columns = [both[name].tolist() for name in ("replicate", "method", "rewind", "level", "order", "device")]
        return {Training(r, m, k, n, int(order)): device for r, m, k, n, order, device in zip(*columns, strict=True)}


def known(store: Path, config: Config) -> Study:
    """What is there of a configuration's study, in the results folder and in a run store."""
    study = StudyStore(store, config)
    return Study(*records.known(study), frozenset(study.results()))


def absent(configs: Sequence[Config], study: Study, device: str) -> list[Training]:
    """The trainings of configurations of one study that this device can add: without other devices' replicates."""
    elsewhere = study.elsewhere(device)
    trainings = (t for config in configs for t in plan.missing(study.values, config) if t.replicate not in elsewhere)
    return list(dict.fromkeys(trainings))


def agenda(
    listed: Sequence[Part], claims: Sequence[Claim], store: Path, device: str, *, ranked: bool = True
) -> pd.DataFrame:
    """What is to be done on a device: a row for each part, indexed by its place in `listed`, best first if `ranked`.

    Columns: part, profile, missing (trainings), hours, claims, claims per hour. Hours are those of one core or of one
    GPU, for trainings alone; NaN where nothing like it was timed. A part decides a claim when it trains all that the
    claim still lacks. Ranked, parts come by claims per hour; ties, and parts without hours, keep their order.
    """
    studies: dict[str, Study] = {}

    def study_of(config: Config) -> Study:
        if config.name not in studies:
            studies[config.name] = known(store, config)
        return studies[config.name]

    wanted, made = list[tuple[str, list[Need]]](), dict[str, dict[Training, str]]()
    for claim in claims:
        wanted.append((claim.claim, []))
        for config, trainings in needs(claim):
            name = config.name
            wanted[-1][1].extend((name, training) for training in trainings)
            if name not in made:
                made[name] = study_of(config).made()
    recorded = {c.name: c for folder in (records.results_folder(), store) for c in records.studies(folder)}
    timed = [(config, study_of(config).provenance) for config in recorded.values()]
    rows = []
    for part in listed:
        missing, hours = set[Need](), 0.0
        for configs in part.studies():
            study = study_of(configs[0])
            lacking = absent(configs, study, device)
            missing |= {(configs[0].name, training) for training in lacking}
            work = {t for config in configs for t in plan.needed(lacking, config, study.complete)} - study.complete
            updates = sum(plan.length(training, configs[0]) for training in work)
            hours += updates * seconds_per_update(configs[0], device, timed) / 3600 if updates else 0
        count = _decided(wanted, made, missing, device)
        rate = count / hours if hours > 0 else 0.0
        rows.append([part.name, part.configs[0].profile, len(missing), hours, count, rate])
    table = pd.DataFrame(rows, columns=["part", "profile", "missing", "hours", "claims", "claims per hour"])
    return table.sort_values("claims per hour", ascending=False, kind="stable") if ranked else table


def shown(table: pd.DataFrame) -> str:
    """An agenda as text."""
    hours = table["hours"].map(lambda value: "unknown" if math.isnan(value) else f"{value:.1f}")
    rates = table["claims per hour"].map("{:.2f}".format)
    text: str = table.assign(hours=hours, **{"claims per hour": rates}).to_string(index=False)
    return text


def needs(claim: Claim) -> Iterator[tuple[Config, list[Training]]]:
    """The trainings that a claim's effect is computed from, by study."""
    orders = (0, 1) if claim.measure.endswith("data_order") else (0,)
    for term in parse(claim.effect):
        found = []
        for replicate in range(1, int(claim.replicates) + 1):
            if term.method == "dense" or claim.measure.endswith("_pruning"):
                found.append(dense(replicate))
            if term.method != "dense":
                places = ((level, order) for level in claim.at for order in orders)
                found += [Training(replicate, term.method, term.rewind, *place) for place in places]
        yield claim.config(claim.dataset, dict(term.changes)), found


def _decided(
    needs: Iterable[tuple[str, Sequence[Need]]],
    made: Mapping[str, Mapping[Training, str]],
    missing: set[Need],
    device: str,
) -> int:
    """How many claims have all that they need once `missing` is trained on the device, and lack something before.

    One kind of processor must have made all that is compared in a replicate.
    """
    complete, lacked = dict[str, bool](), dict[str, bool]()
    for claim, wanted in needs:
        kinds: dict[int, set[str]] = {}
        for study, training in wanted:
            new = (study, training) in missing
            kinds.setdefault(training.replicate, set()).add(device if new else made[study].get(training, ""))
            lacked[claim] = lacked.get(claim, False) or new
        alike = all(len(found) == 1 and "" not in found for found in kinds.values())
        complete[claim] = complete.get(claim, True) and alike
    return sum(complete[claim] and lacked[claim] for claim in complete)
