"""A user's own folder of images, `dataset="folder:PATH"`, for `extents` and `data`.

A setting, and so its digest and its records, names it by the folder's name and a fingerprint of its images
(`settings.OWN_FOLDER`). Only this process and those that it starts know the path.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lth_study.data.image_folders import (
    Listing,
    decoded_once,
    found_images,
    kept_of,
    listing_digest,
    pixels,
    read_images,
    refuse,
)
from lth_study.data.parts import DataError, Dataset, hold_out
from lth_study.files import StoreError, write_atomic

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class OwnFolder:
    """A folder without faults, and what studies call it."""

    name: str
    classes: list[str]
    listing: Listing


def identify(path: str, batch_size: int) -> OwnFolder:
    """Check a folder for studies in batches of this size, and remember where it lies.

    Its images are in `train/<class>/` and in `val/<class>/` or `test/<class>/`. The first call reads every image.
    Raises `DataError` with all that is wrong.
    """
    folder = Path(os.path.abspath(os.path.expanduser(path)))  # not resolved: a link has the name that the user sees
    found = _checked(folder, batch_size)
    os.environ[_variable(found.name)] = str(folder)
    return found


def load(name: str, size: int) -> Dataset:
    """The images of a folder that `identify` has seen, in memory as squares of `size` pixels, as Imagenette's.

    `test` is for testing and `val` for validation. If only one of them is there, it is for testing, and a part of
    `train` is held out for validation.
    """
    folder = place_of(name)
    found = _checked(folder)
    if found.name != name:
        raise DataError(f"{folder} has changed: it was {name} and is {found.name}; give it again as 'folder:{folder}'")
    train, *others = decoded_once(folder, found.listing, size)
    if len(others) == 1:
        return Dataset(name, *hold_out(train, kept_of(len(train))), *others)
    return Dataset(name, train, *others)


def place_of(name: str) -> Path:
    """Where a folder lies that `identify` has seen, here or in the process that started this one."""
    where = os.environ.get(_variable(name))
    if where is None:
        raise DataError(f"dataset: where {name} lies is not known; give its path, as dataset 'folder:PATH'")
    return Path(where)


def _variable(name: str) -> str:
    """The environment variable that tells this process, and those that it starts, where a folder lies."""
    return f"LTH_FOLDER_{name}"


def _checked(folder: Path, batch_size: int = 1) -> OwnFolder:
    layout = "train/<class>/* and val/<class>/* or test/<class>/*"
    if not folder.is_dir():
        raise DataError(f"dataset: {folder} is not a folder; expected one with images in {layout}")
    parts = [part for part in PARTS if (folder / part).is_dir()]
    classes = sorted({path.name for part in parts for path in (folder / part).glob("[!.]*") if path.is_dir()})
    listing, problems = found_images(folder, classes, parts)
    if len(parts) < 2 or "train" not in parts:
        problems.insert(0, f"{' and '.join(parts) or 'no part'} is there; expected train and val or test")
    if len(classes) < 2:
        problems.append(f"{len(classes)} classes; expected 2 or more")
    count = len(listing.get("train", ()))
    kept = count if len(parts) == len(PARTS) else kept_of(count)
    if kept < batch_size:
        problems.append(
            f"train: {count:,} images leave {max(kept, 0):,} to train on; expected {batch_size:,} or more (batch_size)"
        )
    fingerprint, unreadable = _fingerprint(folder, listing)
    refuse(folder, ("train", "test"), [*problems, *unreadable])
    return OwnFolder(f"{_plain(folder.name)}@{fingerprint}", classes, listing)


def _fingerprint(folder: Path, listing: Listing) -> tuple[str, list[str]]:
    """Sixteen hexadecimal digits of the names and contents of all files, and a line for each that is no image.

    They are kept in the folder until a file changes.
    """
    checked = folder / f".fingerprint-{listing_digest(folder, listing)}"
    with suppress(OSError):
        return checked.read_text(), []
    digests, unreadable = read_images(folder, listing, _digest)
    whole = hashlib.sha256()
    for digest in (digest for part in digests.values() for digest in part):
        whole.update(digest.numpy().tobytes())
    fingerprint = whole.hexdigest()[:16]
    if not unreadable:
        with suppress(StoreError, OSError):  # a read-only folder is read again next time
            for outdated in folder.glob(".fingerprint-*"):
                outdated.unlink()
            write_atomic(checked, fingerprint.encode())
    return fingerprint, unreadable


def _digest(file: Path) -> Tensor:
    """A digest of an image's part, class, name and content. Raises `Unreadable` if it is not an image."""
    pixels(file)
    content = "\n".join(file.parts[-3:]).encode() + b"\n" + file.read_bytes()
    return torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)


def _plain(name: str) -> str:
    """A folder's name, short and without characters that file names or tables do not take."""
    return re.sub(r"[^\w.-]", "_", name)[:40] or "_"
