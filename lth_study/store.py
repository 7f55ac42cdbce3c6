"""The run store: a folder for every training. Nothing is trained twice, and nothing finished is lost.

    <store>/<study>/{config,images}.json
    <store>/<study>/replicate_1/dense/{iteration_500,end}.safetensors, result.json
    <store>/<study>/replicate_1/imp/rewind_500/level_03/order_0/{mask,end}.safetensors, result.json
    <store>/<study>/replicate_1/imp/rewind_500/level_03/{distances,barriers}.json

`result.json` is written last and marks a training as complete. `files` writes each file to a temporary name and moves
it into place. States have checksums. A lock for each training lets several processes of a machine share one store.
`worker` fills the store; `measure` adds distances and barriers; `records` and `weights` read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from lth_study.files import (
    Damaged,
    StoreError,
    holder,
    locked,
    read_json,
    read_state,
    write_atomic,
    write_json,
    write_state,
)
from lth_study.methods import TABLE
from lth_study.settings import Setting

if TYPE_CHECKING:
    from torch import Tensor

    from lth_core.masks import Mask


class Busy(Exception):
    """Another process does this training now. `holder` names it, unless it is this one or a helper of it."""

    def __init__(self, folder: Path) -> None:
        self.holder = holder(folder)
        super().__init__(f"{self.holder or 'this study'} is at work in {folder}")


ChainId = tuple[int, str, int]
"""Replicate, method and rewinding iteration: what the levels of a search share."""


@dataclass(frozen=True, order=True)
class Training:
    """Identifies a training of a study. The dense network has rewind 0 and level 0.

    `again` marks a repetition of a finished training. Repetitions measure the noise floor.
    """

    replicate: int
    method: str
    rewind: int
    level: int
    order: int
    again: bool = False

    @property
    def searched(self) -> bool:
        """Whether it is a level of a search: one that the next level builds on, in data order 0."""
        return self.level > 0 and TABLE[self.method].retrain is not None

    @property
    def chain(self) -> ChainId:
        """The chain at whose level it stands. A dense network belongs to that of IMP at k = 0."""
        return self.replicate, self.method if self.searched else "imp", self.rewind

    @property
    def folder(self) -> str:
        if self.method == "dense":
            return f"replicate_{self.replicate}/dense" + (f"/order_{self.order}" if self.order else "")
        repetition = "_again" if self.again else ""
        return (
            f"replicate_{self.replicate}/{self.method}/rewind_{self.rewind}/level_{self.level:02d}"
            f"/order_{self.order}{repetition}"
        )

    def __str__(self) -> str:
        if self.method == "dense":
            return f"replicate {self.replicate}, dense" + (f", data order {self.order}" if self.order else "")
        return (
            f"replicate {self.replicate}, {self.method.replace('_', ' ')}, rewound to {self.rewind}, "
            f"level {self.level}, data order {self.order}{' again' if self.again else ''}"
        )


def dense(replicate: int, order: int = 0) -> Training:
    """The dense run of a replicate. Order 0 gives W_k for every k, the first mask, and the dense end of distances.
    Other orders give only an accuracy."""
    return Training(replicate, "dense", rewind=0, level=0, order=order)


def write_setting(file: Path, setting: Setting) -> None:
    """Write a study's `config.json`, unless it is there and whole."""
    with suppress(OSError, ValueError):
        if Setting.from_json(file.read_text()) == setting:
            return
    write_atomic(file, setting.to_json().encode())


class StudyStore:
    """The trainings of one study (one digest) in a store."""

    def __init__(self, store: Path, setting: Setting) -> None:
        self.store = store
        self.folder = store / setting.name
        self.setting = setting

    def prepare(self) -> None:
        """Make the folder and its `config.json`."""
        write_setting(self.folder / "config.json", self.setting)

    def images(self, fingerprint: str) -> str:
        """The fingerprint of the images of this store's trainings. The first call stores its `fingerprint`."""
        file = self.folder / "images.json"
        with locked(self.folder, wait=True):
            if not file.exists():
                write_json(file, {"fingerprint": fingerprint})
        return str(read_json(file)["fingerprint"])

    def saves(self, training: Training, maker: str = "") -> TrainingFolder:
        # `maker` names the device and torch that go on from its checkpoint
        return TrainingFolder(self.folder / training.folder, maker)

    def count(self, trainings: Iterable[Training]) -> int:
        """The number of these trainings that are complete."""
        return sum(self.saves(training).complete for training in trainings)

    def summary(self, training: Training) -> str:
        """A line on a complete training: its test accuracy, or that it diverged, and its seconds."""
        result = self.saves(training).result()
        end = (
            "diverged"
            if result["diverged_at"] is not None
            else f"test accuracy {result['metrics']['test_accuracy']:.2f}%"
        )
        return f"{training}: {end} ({result['provenance']['seconds']:.0f} s)"

    def results(self) -> dict[Training, dict[str, Any]]:
        """The `result.json` of every complete training of the study."""
        files = self.folder.glob("replicate_*/**/result.json")
        results = {}
        for file in files:
            result = read_json(file)
            results[self._training(file, result)] = result
        return results

    def _training(self, file: Path, result: Mapping[str, Any]) -> Training:
        """The training that a result tells of. One whose own folder is another may lead anywhere, so it is refused."""
        with suppress(LookupError, TypeError, ValueError):
            training = Training(**result["training"])
            plain = all(type(getattr(training, each.name)).__name__ == each.type for each in fields(training))
            if plain and self.saves(training).folder == file.parent:
                return training
        raise StoreError(f"{file} does not tell of the training of its folder; delete it and run again")


class TrainingFolder:
    """The files of one training."""

    def __init__(self, folder: Path, maker: str = "") -> None:
        self.folder, self.maker = folder, maker

    @property
    def complete(self) -> bool:
        return (self.folder / "result.json").exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the training's lock. Raises `Busy` when another process holds it."""
        try:
            with locked(self.folder, wait=False):
                yield
        except Timeout:
            raise Busy(self.folder) from None

    def result(self) -> dict[str, Any]:
        return read_json(self.folder / "result.json")

    def finish(self, result: Mapping[str, Any], state: Mapping[str, Tensor], mask: Mask) -> None:
        """Write the mask, the final state and, last, the result. The result makes the training complete."""
        write_state(self.folder / "mask.safetensors", {name: mask[name] for name in mask})
        write_state(self.folder / "end.safetensors", state)
        write_json(self.folder / "result.json", result)
        (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the training's files, the result first."""
        for name in ("result.json", "end.safetensors", "mask.safetensors", "checkpoint.safetensors"):
            (self.folder / name).unlink(missing_ok=True)

    def load_end(self) -> dict[str, Tensor]:
        return read_state(self.folder / "end.safetensors")[0]

    def load_state(self, iteration: int) -> dict[str, Tensor]:
        return read_state(self.folder / f"iteration_{iteration}.safetensors")[0]

    def toward(self, iteration: int) -> TrainingFolder:
        """The folder for the checkpoint of a training that stops at `iteration`, to get the state there."""
        return TrainingFolder(self.folder / f"toward_{iteration}", self.maker)

    def nearest_state(self, iteration: int) -> tuple[int, dict[str, Tensor] | None]:
        """The latest readable state at or before an iteration, or (0, None)."""
        for earlier in sorted((k for k in self.kept_states() if k <= iteration), reverse=True):
            try:
                return earlier, self.load_state(earlier)
            except Damaged:
                continue
        return 0, None

    def kept_states(self) -> list[int]:
        """The iterations whose states are kept."""
        names = (file.stem.removeprefix("iteration_") for file in self.folder.glob("iteration_*.safetensors"))
        return sorted(int(name) for name in names if name.isdecimal())

    def save_state(self, iteration: int, state: Mapping[str, Tensor]) -> None:
        write_state(self.folder / f"iteration_{iteration}.safetensors", state)

    def load_mask(self) -> Mask:
        from lth_core.masks import Mask

        return Mask(read_state(self.folder / "mask.safetensors")[0])

    def load_checkpoint(self) -> tuple[int, float, dict[str, Tensor]] | None:
        """The last checkpoint: iteration, seconds, state. None if it is absent.

        One that is damaged, or that another maker left, is deleted: its bits would not be those of one device.
        """
        file = self.folder / "checkpoint.safetensors"
        if not file.exists():
            return None
        try:
            state, about = read_state(file)
        except Damaged:
            file.unlink()
            return None
        if self.maker and about.get("maker", self.maker) != self.maker:
            file.unlink()
            return None
        return int(about["iteration"]), float(about["seconds"]), state

    def save_checkpoint(self, iteration: int, seconds: float, state: Mapping[str, Tensor]) -> None:
        about = {"iteration": str(iteration), "seconds": f"{seconds:.3f}", "maker": self.maker}
        write_state(self.folder / "checkpoint.safetensors", state, about)
