"""The table of `lth agenda`: for each part its missing trainings, their hours, and the claims they would decide."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lth_study import plan, records
from lth_study.agenda.parts import Part
from lth_study.costs.updates import seconds_per_update
from lth_study.extents import Study
from lth_study.report.claims import Claim
from lth_study.report.effects import parse
from lth_study.settings import Setting
from lth_study.store import StudyStore, Training, dense
from lth_study.tables import PROVENANCE_KEY

Need = tuple[str, Training]
"""The name of a study, and one of its trainings."""


class Known(NamedTuple):
    """What exists of a study: records, provenance, and the trainings that are complete in the run store."""

    values: pd.DataFrame
    provenance: pd.DataFrame
    complete: frozenset[Training]

    def elsewhere(self, device: str) -> dict[int, str]:
        """Replicate -> the other devices that made it. One kind of processor makes a whole replicate."""
        made = self.provenance.groupby("replicate")["device"].agg(lambda names: " and ".join(sorted(set(names))))
        return {int(replicate): names for replicate, names in made.items() if names != device}

    def made(self) -> dict[Training, str]:
        """Training -> its device, for every training that has an accuracy."""
        finished = self.values[self.values["metric"] == "test_accuracy"]
        both = finished.merge(self.provenance, on=PROVENANCE_KEY)
        columns = [both[name].tolist() for name in ("replicate", "method", "rewind", "level", "order", "device")]
        return {Training(r, m, k, n, int(order)): device for r, m, k, n, order, device in zip(*columns, strict=True)}


def known(store: Path, setting: Setting) -> Known:
    """What the results folder and a run store have of a study."""
    return Known(*records.known(setting, store), frozenset(StudyStore(store, setting).results()))


def absent(study: Study, known: Known, device: str) -> list[Training]:
    """The missing trainings of a study that this device can add. Replicates of other devices are left out."""
    elsewhere = known.elsewhere(device)
    return [t for t in plan.missing(known.values, study) if t.replicate not in elsewhere]


def agenda(
    listed: Sequence[Part], claims: Sequence[Claim], store: Path, device: str, *, ranked: bool = True
) -> pd.DataFrame:
    """What a device can still train: a row for each part, indexed by its place in `listed`.

    Columns: part, profile, missing (trainings), hours, claims, claims per hour. Hours are those of one core or of one
    GPU, for trainings alone; NaN if nothing similar was timed. A part decides a claim if it trains all that the claim
    lacks. `ranked` sorts by claims per hour, most first; ties, and parts without hours, keep their order.
    """
    known_of = cache(lambda setting: known(store, setting))
    wanted, made = list[tuple[str, list[Need]]](), dict[str, dict[Training, str]]()
    for claim in claims:
        wanted.append((claim.claim, []))
        for setting, trainings in needs(claim):
            name = setting.name
            wanted[-1][1].extend((name, training) for training in trainings)
            if name not in made:
                made[name] = known_of(setting).made()
    recorded = {c.name: c for folder in (records.results_folder(), store) for c in records.studies(folder)}
    timed = [(setting, known_of(setting).provenance) for setting in recorded.values()]
    rows = []
    for part in listed:
        missing, hours = set[Need](), 0.0
        for study in part.studies:
            setting, here = study.setting, known_of(study.setting)
            lacking = set(absent(study, here, device))
            missing |= {(setting.name, training) for training in lacking}
            apart = plan.unmeasured(here.values, study)
            new = [c for c in apart if isinstance(c, plan.Distance) and {c.a, c.b} & lacking]
            work = set(plan.needed(lacking, new, study, here.complete)) - here.complete
            updates = sum(plan.length(training, setting) for training in work)
            hours += updates * seconds_per_update(setting, device, timed) / 3600 if updates else 0
        count = _decided(wanted, made, missing, device)
        rate = count / hours if hours > 0 else 0.0
        rows.append([part.name, part.studies[0].setting.profile, len(missing), hours, count, rate])
    table = pd.DataFrame(rows, columns=["part", "profile", "missing", "hours", "claims", "claims per hour"])
    return table.sort_values("claims per hour", ascending=False, kind="stable") if ranked else table


def shown(table: pd.DataFrame) -> str:
    """The table as text; hours that are NaN become "unknown"."""
    hours = table["hours"].map(lambda value: "unknown" if math.isnan(value) else f"{value:.1f}")
    rates = table["claims per hour"].map("{:.2f}".format)
    text: str = table.assign(hours=hours, **{"claims per hour": rates}).to_string(index=False)
    return text


def needs(claim: Claim) -> Iterator[tuple[Setting, list[Training]]]:
    """The trainings that a claim's effect needs, by study."""
    orders = (0, 1) if "_data_order" in claim.measure else (0,)
    above = 1 if "_level_" in claim.measure else 0  # barriers to the level before
    for term in parse(claim.effect):
        found = []
        for replicate in range(1, int(claim.replicates) + 1):
            if term.method == "dense" or "_pruning" in claim.measure:
                found.append(dense(replicate))
            if term.method != "dense":
                places = ((level - up, order) for level in claim.at for up in range(above + 1) for order in orders)
                found += [Training(replicate, term.method, term.rewind, *place) for place in places]
        yield claim.setting(claim.dataset, dict(term.changes)), found


def _decided(
    needs: Iterable[tuple[str, Sequence[Need]]],
    made: Mapping[str, Mapping[Training, str]],
    missing: set[Need],
    device: str,
) -> int:
    """How many claims lack trainings now and lack none once `missing` is trained on the device.

    One kind of processor must train all networks of a replicate that a claim compares.
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
