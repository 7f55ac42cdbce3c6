"""Small studies of LeNet for tests (`conftest` finishes two of them), and what tests look at in a run store."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from torch import Tensor

from lth_core import Ticket
from lth_study import SettingError, data, preset, run
from lth_study.data.parts import Dataset
from lth_study.extents import Study
from lth_study.training.train import Trained, train

SMOKE = preset("lenet_300_100", profile="smoke").only("stability")
TINY = SMOKE.updated(iterations=70, rewinds=(5,), levels=1, methods=("imp",))
"""Four trainings: dense, level 1 in two data orders, and the first of them again."""


class Done(NamedTuple):
    """A finished study: its store, its records, and the tickets that it trained."""

    study: Study
    store: Path
    records: pd.DataFrame
    trained: list[Ticket]

    @property
    def folder(self) -> Path:
        return self.store / self.study.setting.name


def finished(study: Study, folder: Path, dataset: Dataset) -> Done:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LTH_RESULTS", str(folder / "results"))
        read_once(monkeypatch, dataset)
        trained = count_trainings(monkeypatch)
        return Done(study, folder / "store", run(study, store=folder / "store", workers=1), trained)


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[Ticket]:
    """The tickets that the worker hands to `train` from now on."""
    trained: list[Ticket] = []

    def counted(setting: Any, dataset: Dataset, ticket: Ticket, **options: Any) -> Trained:
        trained.append(ticket)
        return train(setting, dataset, ticket, **options)

    monkeypatch.setattr("lth_study.trainings.train", counted)
    return trained


def read_once(monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> None:
    """Hand out the embedded images without reading them again, unless they are asked for in colour."""
    load = data.load
    monkeypatch.setattr(
        data,
        "load",
        lambda name, **shape: dataset if name == "mnist_embedded" and not shape.get("color") else load(name, **shape),
    )


def files(folder: Path, *patterns: str) -> dict[str, Path]:
    found = [file for pattern in patterns for file in folder.rglob(pattern)]
    return {str(file.relative_to(folder)): file for file in found}


def states(folder: Path) -> dict[str, bytes]:
    """Every state and mask in a store."""
    found = files(folder, "end.safetensors", "mask.safetensors", "iteration_*.safetensors")
    return {name: file.read_bytes() for name, file in found.items()}


def same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def assert_same_records(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same records, whenever they were made."""
    pd.testing.assert_frame_equal(one.drop(columns="finished"), other.drop(columns="finished"))


def flip_a_bit(file: Path, where: float = 0.5, bit: int = 0) -> None:
    """Flip a bit of the byte at a position, or at a part of the file's length."""
    content = bytearray(file.read_bytes())
    content[where if isinstance(where, int) else int(where * len(content))] ^= 1 << bit
    file.write_bytes(content)


def assert_refused(update: Callable[..., object], changes: Mapping[str, Any], named: Iterable[str]) -> None:
    """A change is refused, and the message has all of these parts: the name, the value, what was expected."""
    with pytest.raises(SettingError) as refused:
        update(**changes)
    assert [part for part in named if part not in str(refused.value)] == []
