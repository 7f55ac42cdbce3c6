"""CIFAR-10: the original batches in torchvision's layout, or a folder of images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from lth_core.data.image_folders import Unreadable, decoded_once, list_images, pixels
from lth_core.data.parts import DataError, Dataset, Split, hold_out

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"train": 5_000, "test": 1_000}
"""Images of every class."""
KEPT = 45_000
"""Images that are trained on; the other training images are held out for validation."""


def load_batches(root: Path) -> Dataset:
    """CIFAR-10 in torchvision's layout, every file checked against the digest that torchvision has of it."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    for file, expected in [*CIFAR10.train_list, *CIFAR10.test_list, meta]:
        path = folder / file
        if not path.exists():
            raise DataError(f"{path} is missing; CIFAR-10 in Python's format has six batches in {folder}")
        if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != expected:
            raise DataError(f"{path} is truncated or altered (its MD5 is not CIFAR-10's); delete it and get it again")
    parts = []
    for train in (True, False):
        part = CIFAR10(str(root), train=train)
        if strange := set(part.targets) - set(range(len(CLASSES))):
            raise DataError(f"{folder} holds labels {sorted(strange)}; expected 0 to {len(CLASSES) - 1}")
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        parts.append(Split(images, torch.tensor(part.targets)))
    return _hold_out("cifar10", *parts)


def load_images(root: Path) -> Dataset:
    """CIFAR-10 as a folder of images, `cifar10/{train,test}/<class>/*`, decoded once and kept beside them."""
    folder = root / "cifar10"
    listing = list_images(folder, CLASSES, COUNTS)
    return _hold_out("cifar10_jpeg", *decoded_once(folder, listing, _decoded))


def _decoded(file: Path) -> Tensor:
    image = pixels(file)
    if image.shape != (3, 32, 32):
        raise Unreadable(f"{image.shape[2]}x{image.shape[1]} pixels; CIFAR-10's images are 32x32")
    return image


def _hold_out(name: str, train: Split, test: Split) -> Dataset:
    training, validation = (train.of(part) for part in hold_out(len(train), KEPT))
    return Dataset(name, training, validation, test)
