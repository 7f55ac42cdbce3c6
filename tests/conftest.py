"""Shared by all tests: none of them reads or writes the project's own folders, and none reaches the network."""

import os
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import settings

from lth_study import data, preset, records
from lth_study.data.parts import Dataset

PROJECT = Path(__file__).resolve().parents[1]
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
def real_cifar10(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the real CIFAR-10, which `LTH_DATA` then names; the test is skipped where there is none."""
    folder = REAL_DATA / "cifar-10-batches-py"
    if not folder.is_dir():
        pytest.skip(f"needs the real CIFAR-10, but there is no {folder}; set LTH_DATA to a folder that holds it")
    monkeypatch.setenv("LTH_DATA", str(REAL_DATA))
    return REAL_DATA


@pytest.fixture(scope="session")
def embedded_mnist() -> Dataset:
    """The embedded 5,000 images, read once."""
    return data.load("mnist_embedded")


def record(method: str, rewind: int, replicate: int, level: int, order: str, metric: str, value: float) -> list[object]:
    setting = preset("lenet_300_100", profile="smoke").setting
    about = [setting.digest(), setting.network, setting.recipe, setting.profile, setting.dataset]
    return [*about, method, rewind, replicate, level, 0.8**level, order, metric, value]


@pytest.fixture
def table() -> pd.DataFrame:
    """Records of a small study, as `run` returns them: three replicates, two rewinding iterations, two levels.

    In their second data order subnetworks are one point less accurate: half a point over both orders.
    """
    rows = []
    for replicate in (1, 2, 3):
        rows.append(record("dense", 0, replicate, 0, "0", "test_accuracy", 98 + replicate / 10))
        for method, loss in (("imp", 0.0), ("random_pruning", 1.0)):
            for rewind in (0, 20):
                for level in (1, 2):
                    where = (method, rewind, replicate, level)
                    rows.append(record(*where, "0", "test_accuracy", 98 - loss * level + replicate / 10))
                    rows.append(record(*where, "1", "test_accuracy", 97 - loss * level + replicate / 10))
                    rows.append(record(*where, "0", "l2_pruning", 10 * level + loss + replicate))
                    rows.append(record(*where, "0-1", "l2_data_order", 5 * level + loss + replicate))
    return pd.DataFrame(rows, columns=records.COLUMNS).assign(device="a processor", finished="2026-12-01T00:00Z")


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: a recorded update stands for the graph made of it."""
    monkeypatch.setattr("lth_study.training.steps.recorded", lambda update: SimpleNamespace(replay=update))
    monkeypatch.setattr("lth_study.training.steps._wait_for_gpu", lambda: None)
