"""Shared by all tests: none of them reads or writes the project's own folders, and none reaches the network."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest
from hypothesis import settings
from studies import SMOKE, TINY, Done, finished, read_once

from lth_study import Setting, data, preset, records, report
from lth_study.__main__ import entry
from lth_study.data import mnist
from lth_study.data.parts import Dataset, Split

PROJECT = Path(__file__).resolve().parents[1]
DEBIAN = mnist.DEBIAN
REAL_DATA = Path(os.environ.get("LTH_DATA", PROJECT / "data")).absolute()

settings.register_profile("tests", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run store, records and data in folders of the test's own; the data folder is empty and nothing is downloaded."""
    for name in ("store", "results", "data"):
        monkeypatch.setenv(f"LTH_{name.upper()}", str(tmp_path / name))
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(data, "_download", lambda name, root, **options: False)
    monkeypatch.setattr(mnist, "DEBIAN", tmp_path / "debian")
    for proxy in ("http_proxy", "https_proxy"):  # where nothing answers, for the processes that a test starts
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")


@pytest.fixture
def real_mnist(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the real MNIST, which `LTH_DATA` then names; the test is skipped where there is none."""
    file = REAL_DATA / "MNIST" / "raw" / "train-images-idx3-ubyte"
    if not file.exists():
        pytest.skip(f"needs the real MNIST, but there is no {file}; set LTH_DATA to a folder that holds it")
    monkeypatch.setenv("LTH_DATA", str(REAL_DATA))
    return REAL_DATA


@pytest.fixture
def real_fashion(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the real Fashion-MNIST's files, from `LTH_DATA` or Debian's package; skips where there is none."""
    monkeypatch.setattr(mnist, "DEBIAN", DEBIAN)
    if (folder := mnist.find_fashion(REAL_DATA)) is None:
        pytest.skip(
            f"needs the real Fashion-MNIST, but neither {REAL_DATA} nor {DEBIAN} has it; set LTH_DATA or install "
            "dataset-fashion-mnist"
        )
    monkeypatch.setenv("LTH_DATA", str(REAL_DATA))
    return folder


@pytest.fixture
def real_cifar10(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the real CIFAR-10, which `LTH_DATA` then names; the test is skipped where there is none."""
    folder = REAL_DATA / "cifar-10-batches-py"
    if not folder.is_dir():
        pytest.skip(f"needs the real CIFAR-10, but there is no {folder}; set LTH_DATA to a folder that holds it")
    monkeypatch.setenv("LTH_DATA", str(REAL_DATA))
    return REAL_DATA


@pytest.fixture(scope="session")
def html() -> Path:
    """The pages of the built book."""
    if not (PROJECT / "_build/html/index.html").exists():
        pytest.skip("the book is not built; run make book")
    return PROJECT / "_build/html"


@pytest.fixture(scope="session")
def embedded_mnist() -> Dataset:
    """The embedded 5,000 images, read once."""
    return data.load("mnist_embedded")


@pytest.fixture(scope="module")
def few_images(embedded_mnist: Dataset) -> Iterator[None]:
    """400 of the embedded images to train on, which go through the colouring and the reduction of all images."""
    parts = ((embedded_mnist.train, 400), (embedded_mnist.validation, 50), (embedded_mnist.test, 50))
    few = Dataset(embedded_mnist.name, *(Split(part.images[:count], part.labels[:count]) for part, count in parts))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(mnist, "load_embedded", lambda: few)
        yield


Place = tuple[str, int, int, int, str]
"""Where a record belongs: method, rewinding iteration, replicate, level, data order."""


def records_of(setting: Setting, values: Iterable[tuple[Place, str, float]]) -> pd.DataFrame:
    """Records of these values: place, metric, value. Every level keeps 80% of the weights."""
    about = (setting.digest(), setting.network, setting.recipe, setting.profile, setting.dataset)
    rows = [(*about, *place[:4], 0.8 ** place[3], place[4], metric, value) for place, metric, value in values]
    return pd.DataFrame(rows, columns=records.COLUMNS)


def provenance_of(places: Iterable[Place], **columns: Any) -> pd.DataFrame:
    """Provenance of trainings; `columns` replace the values of all rows, or of each."""
    about = (120, 0.3, "a processor", "0.1.0", "2.14.1", "3.11.7", "0123456789abcdef", "2026-01-02T03:04Z", 2)
    table = pd.DataFrame([(*place, *about) for place in places], columns=records.PROVENANCE)
    return table.assign(**columns).astype({"workers": "Int64"})


@pytest.fixture
def table() -> pd.DataFrame:
    """Records of a small study, as `run` returns them: three replicates, two rewinding iterations, two levels.

    In their second data order subnetworks are one point less accurate: half a point over both orders.
    """
    values: list[tuple[Place, str, float]] = []
    for replicate in (1, 2, 3):
        values.append((("dense", 0, replicate, 0, "0"), "test_accuracy", 98 + replicate / 10))
        for method, loss in (("imp", 0.0), ("random_pruning", 1.0)):
            for rewind in (0, 20):
                for level in (1, 2):
                    where = (method, rewind, replicate, level)
                    values += [
                        ((*where, "0"), "test_accuracy", 98 - loss * level + replicate / 10),
                        ((*where, "1"), "test_accuracy", 97 - loss * level + replicate / 10),
                        ((*where, "0"), "l2_pruning", 10 * level + loss + replicate),
                        ((*where, "0-1"), "l2_data_order", 5 * level + loss + replicate),
                    ]
    setting = preset("lenet_300_100", profile="smoke").setting
    return records_of(setting, values).assign(device="a processor", finished="2026-12-01T00:00Z")


def paper_values(**where: Any) -> pd.DataFrame:
    """The paper's values, from the project's own file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTH_RESULTS", str(PROJECT / "results"))
        return report.paper_values(**where)


class Result(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


Lth = Callable[..., Result]


@pytest.fixture
def lth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], images_read_once: None, tmp_path: Path
) -> Lth:
    """The command `lth`, in this process and in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["lth", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            entry()
        return Result(int(left.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: a recorded update stands for the graph made of it."""
    monkeypatch.setattr("lth_study.training.steps.recorded", lambda update: SimpleNamespace(replay=update))
    monkeypatch.setattr("lth_study.training.steps._wait_for_gpu", lambda: None)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory, embedded_mnist: Dataset) -> Done:
    """LeNet's smoke study, done once; not to be changed."""
    return finished(SMOKE, tmp_path_factory.mktemp("smoke"), embedded_mnist)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, embedded_mnist: Dataset) -> Done:
    """The smallest study, done once; not to be changed."""
    return finished(TINY, tmp_path_factory.mktemp("tiny"), embedded_mnist)


@pytest.fixture
def copy(tiny: Done, tmp_path: Path) -> Done:
    """A finished smallest study to change."""
    shutil.copytree(tiny.store, tmp_path / "store")
    return tiny._replace(store=tmp_path / "store")


@pytest.fixture
def images_read_once(monkeypatch: pytest.MonkeyPatch, embedded_mnist: Dataset) -> None:
    read_once(monkeypatch, embedded_mnist)
