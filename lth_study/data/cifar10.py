"""CIFAR-10 for `data.load`: the original batches in torchvision's layout."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct

from lth_study.data.parts import DataError, Dataset, Split, hold_out

KEPT = 45_000
"""Images to train on. The other training images are held out for validation."""


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""Every global name in the batches, as numpy spelled it in 2009 -> the same object in today's numpy."""


def load_batches(root: Path) -> Dataset:
    """CIFAR-10 from the batches in torchvision's layout, `cifar-10-batches-py/*` below `root`.

    Images are uint8 [examples, 3, 32, 32], labels int64 from 0 to 9, in the order of the archive's names. Raises
    `DataError` if a batch is missing, has another digest than torchvision lists, or names anything but numpy arrays.
    """
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    train, test = _read(folder, CIFAR10.train_list), _read(folder, CIFAR10.test_list)
    return Dataset("cifar10", *hold_out(train, KEPT), test)


def _read(folder: Path, listing: list[tuple[str, str]]) -> Split:
    """Read a list of files and MD5 digests, and join their batches in order."""
    batches = [_batch(folder / file, digest) for file, digest in listing]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return Split(torch.from_numpy(images), torch.tensor([label for batch in batches for label in batch["labels"]]))


def _batch(path: Path, digest: str) -> dict[str, Any]:
    mend = f"delete {path.parent} to download CIFAR-10 again"
    if not path.exists():
        raise DataError(f"{path} is missing; CIFAR-10 in Python's format has six batches; {mend}")
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
        raise DataError(f"{path} is truncated or altered (its MD5 is not {digest}); {mend}")
    batch: dict[str, Any] = _Unpickler(path, content).load()
    return batch


class _Unpickler(pickle.Unpickler):
    """Reads a batch, a pickle of Python 2. A pickle can call whatever it names, so it may name only `_ADMITTED`."""

    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            admitted = ", ".join(map(".".join, _ADMITTED))
            raise DataError(
                f"{self.path} names {module}.{name}; CIFAR-10 names only {admitted}. "
                "Reading this file could run arbitrary code: delete it."
            )
        return _ADMITTED[module, name]
