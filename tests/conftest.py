"""Shared by all tests: none of them reads or writes the project's own folders, and none reaches the network."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from lth_core import data

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
    monkeypatch.setattr(data, "_download", lambda name, root: False)


@pytest.fixture
def real_mnist(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the real MNIST, which `LTH_DATA` then names; the test is skipped where there is none."""
    file = REAL_DATA / "MNIST" / "raw" / "train-images-idx3-ubyte"
    if not file.exists():
        pytest.skip(f"needs the real MNIST, but there is no {file}; set LTH_DATA to a folder that holds it")
    monkeypatch.setenv("LTH_DATA", str(REAL_DATA))
    return REAL_DATA


@pytest.fixture(scope="session")
def embedded_mnist() -> data.Dataset:
    """The embedded 5,000 images, read once."""
    return data.load("mnist_embedded")
