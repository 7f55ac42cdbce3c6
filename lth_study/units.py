"""`lth plan`: a study as units that machines of a cluster do apart from each other. workflow/Snakefile runs them.

No training crosses replicates, so a unit is a replicate with a run store of its own. Smaller units are a replicate's
dense runs and its rewinding iterations, or the levels of one-shot pruning. They share their replicate's store, and all
need its dense runs.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from lth_study.commands import command_for
from lth_study.extents import FOLDER, Study
from lth_study.plan import length, trainings
from lth_study.settings import OWN_FOLDER, Setting, SettingError
from lth_study.store import Training

PACKS = ("replicate", "rewind", "level")
"""What a unit may be: a replicate; a replicate's trainings at one rewinding iteration; those at one level."""

_PROCESS = 2**30
"""Bytes of a process that trains, without its network: torch and images. `make bench` measured 0.8 GiB for LeNet."""


@dataclass(frozen=True)
class Unit:
    """Trainings of one replicate of a study that one machine does. `needs` are names of units that come before it."""

    study: Study
    part: str | None
    trainings: tuple[Training, ...]
    needs: tuple[str, ...] = ()
    again: int = 0
    """How many earlier units have this replicate and this part: another list of parts asks for more of a study."""

    @property
    def store(self) -> str:
        """The name of its run store."""
        return f"{self.study.setting.name}-replicate_{self.study.extent.replicates[0]}"

    @property
    def name(self) -> str:
        """Its identity: letters, digits, dots, dashes and underscores."""
        part = f"-{self.part.replace('=', '_')}" if self.part else ""
        return self.store + part + (f"-{self.again + 1}" if self.again else "")

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of `lth run`. Raises `SettingError` if it takes several commands to ask for the study."""
        command, dataset = command_for(self.study), self.study.setting.dataset
        if command is None or " && " in command:
            raise SettingError(f"{self.study.setting.name}: no single command asks for it; choose one --figure")
        words = shlex.split(command)[2:]
        if OWN_FOLDER.fullmatch(dataset):  # a command to keep hides the path, and one to run needs it
            from lth_study.data.own_folder import place_of

            words[words.index("--dataset") + 1] = f"{FOLDER}{place_of(dataset)}"
        return (*words, *(("--part", self.part) if self.part else ()))

    @property
    def updates(self) -> int:
        """How many updates its trainings take. What they build on and is recorded elsewhere is not counted."""
        return sum(length(training, self.study.setting) for training in self.trainings)


def units(
    studies: Iterable[Study], pack: str = "replicate", absent: Callable[[Study], Collection[Training]] = trainings
) -> list[Unit]:
    """The units of studies, in their order. A training that an earlier unit has is not in a later one.

    `absent` gives a study's trainings that are to be done. Units without any are left out. Raises `SettingError` for an
    unknown `pack`, and for "level" if a study is not pruned in one shot: its levels build on each other.
    """
    if pack not in PACKS:
        raise SettingError(f"--pack: {pack!r} is not valid; expected {', '.join(PACKS)}")
    found: list[Unit] = []
    for study in studies:
        wanted = set(absent(study))
        for replicate in study.extent.replicates:
            here = _of_replicate(study.updated(replicates=(replicate,)), pack)
            before = [unit for unit in found if unit.store == here[0].store]
            left = wanted.difference(*(unit.trainings for unit in before))
            needs = tuple(unit.name for unit in before)
            for unit in here:
                again = sum(unit.part == other.part for other in before)
                mine = tuple(training for training in unit.trainings if training in left)
                if mine:
                    found.append(replace(unit, trainings=mine, needs=needs, again=again))
                    needs = needs or (found[-1].name,)
    return found


def _of_replicate(study: Study, pack: str) -> list[Unit]:
    """The units of one replicate. The others build on the first, or do its work if it has none left."""
    if pack == "level" and study.setting.densities is None:
        raise SettingError(
            f"--pack level: the levels of {study.setting.network} build on each other; expected a network that is "
            "pruned in one shot, such as resnet50; choose --pack rewind"
        )
    planned = trainings(study)
    if pack == "replicate":
        return [Unit(study, None, tuple(planned))]
    places = sorted({getattr(training, pack) for training in planned if training.level})
    parts = ["dense", *(f"{pack}={place}" for place in places)]
    return [Unit(study, part, tuple(filter(in_part(part), planned))) for part in parts]


def in_part(part: str | None) -> Callable[[Training], bool]:
    """Whether a training is in a part of a study: "dense", "rewind=K", "level=N", or None for all of it.

    Raises `SettingError` for another part.
    """
    place = re.fullmatch(r"(rewind|level)=(\d+)", part or "")
    if place is not None:
        return lambda training: training.level > 0 and getattr(training, place[1]) == int(place[2])
    if part not in (None, "dense"):
        raise SettingError(f"--part: {part!r} is not valid; expected dense, rewind=K or level=N")
    return lambda training: part is None or not training.level


def printed(found: Iterable[Unit], device: str | None, as_json: bool) -> str:
    """What `lth plan` prints: a table, or JSON. Seconds and hours are those of one core or GPU; None where unknown."""
    from lth_study.costs.updates import seconds_on

    if device is None:
        from lth_study.devices import device_name

        device = device_name()
    each = seconds_on(device)
    timed = [(unit, unit.updates * each(unit.study.setting), memory(unit.study.setting)) for unit in found]
    if as_json:
        rows = [
            {
                "unit": unit.name,
                "store": unit.store,
                "study": unit.study.setting.name,
                "arguments": unit.arguments,
                "needs": unit.needs,
                "trainings": len(unit.trainings),
                "seconds": None if math.isnan(seconds) else round(seconds, 1),
                "bytes": size,
            }
            for unit, seconds, size in timed
        ]
        return json.dumps(rows, indent=1)
    lines = [f"trainings    hours    GiB  unit; hours on {device}"]
    for unit, seconds, size in timed:
        hours = "unknown" if math.isnan(seconds) else f"{seconds / 3600:.2f}"
        needs = f", after {len(unit.needs)} other" if unit.needs else ""
        lines.append(f"{len(unit.trainings):>9}  {hours:>7}  {size / 2**30:>5.1f}  {unit.name}{needs}")
    return "\n".join(lines) if timed else "Every training is recorded."


def memory(setting: Setting) -> int:
    """The bytes to set aside for one network in training: an estimate.

    They are those of a process, and three times the least that a training holds. `make bench` measured 1.7 GiB for
    ResNet-20 at the paper's scale.
    """
    if setting.network == "lenet_300_100":
        return _PROCESS
    from lth_study.costs.limits import training_bytes

    return _PROCESS + 3 * training_bytes(setting)
