"""Imagenette: ten classes of ImageNet, as a folder of images, decoded to squares of one size."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from lth_core.data import DataError, Dataset, Listing, Split, decoded_once
from lth_core.seeds import stream

CLASSES = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413",
           "n03445777", "n03888257")  # fmt: skip
"""WordNet identifiers of ImageNet's classes, which name their folders; a label is a position in this list."""
FOLDERS = ("imagenette", "imagenette2", "imagenette2-320", "imagenette2-160")
HELD_OUT = 0.05
"""The share of the training images that is held out for validation."""
_SHOWN = 10


def find(root: Path) -> Path | None:
    """The folder that holds the images, under one of the names that they are handed around with."""
    return next((root / name for name in FOLDERS if (root / name / "train").is_dir()), None)


def load_folder(root: Path, size: int) -> Dataset:
    """Imagenette in ImageNet's layout, `{train,val}/<wnid>/*`; the images of `val` are for testing.

    Each image is scaled until its shorter side has `size` pixels, and the square in its middle is kept. The squares of
    a size are made once and kept beside the images. Everything wrong with the folder is found before anything is used,
    and listed in one `DataError`.
    """
    folder = find(root)
    if folder is None:
        raise DataError(f"no folder {' or '.join(FOLDERS)} with images in {root}")
    listing, problems = _listing(folder)
    if problems:
        raise DataError(_report(folder, problems))
    train, test = decoded_once(folder, listing, lambda: _decode_all(folder, listing, size), f"-{size}")
    shuffled = torch.randperm(len(train), generator=stream(0, "validation split"))
    images, labels = train.images[shuffled], train.labels[shuffled]
    kept = len(train) - round(HELD_OUT * len(train))
    return Dataset("imagenette", Split(images[:kept], labels[:kept]), Split(images[kept:], labels[kept:]), test)


def _listing(folder: Path) -> tuple[dict[str, list[tuple[Path, int]]], list[str]]:
    """The images of each part with their labels, and what is wrong with the folder."""
    listing: dict[str, list[tuple[Path, int]]] = {"train": [], "val": []}
    problems = []
    for part, files in listing.items():
        for label, name in enumerate(CLASSES):
            found = sorted((folder / part / name).glob("[!.]*"))
            if not found:
                problems.append(f"{part}/{name}: no images of this class")
            files += [(file, label) for file in found]
        others = [path for path in sorted((folder / part).glob("[!.]*")) if path.name not in CLASSES]
        problems += [f"{path.relative_to(folder)}: not one of Imagenette's ten classes" for path in others]
    return listing, problems


def _decode_all(folder: Path, listing: Listing, size: int) -> dict[str, Tensor]:
    """The squares of every part, uint8 [images, 3, size, size]."""

    def attempt(file: Path) -> Tensor | str:
        try:
            return _square(file, size)
        except _Unreadable as error:
            return f"{file.relative_to(folder)}: {error}"

    state, problems = {}, []
    with ThreadPoolExecutor() as threads:
        for part, files in listing.items():
            decoded = list(threads.map(attempt, (file for file, _ in files)))
            problems += [problem for problem in decoded if isinstance(problem, str)]
            state[part] = [square for square in decoded if isinstance(square, Tensor)]
    if problems:
        raise DataError(_report(folder, problems))
    return {part: torch.stack(squares) for part, squares in state.items()}


class _Unreadable(Exception):
    pass


def _square(file: Path, size: int) -> Tensor:
    from PIL import Image
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    try:
        with Image.open(file) as image:
            square = center_crop(resize(image.convert("RGB"), [size]), [size])
            pixels: Tensor = pil_to_tensor(square)
            return pixels
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _Unreadable(f"not a readable image ({str(error).replace(str(file), file.name)})") from None


def _report(folder: Path, problems: list[str]) -> str:
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    listed = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
    return (
        f"{folder} is not Imagenette as expected, {{train,val}}/<wnid>/ with images in all ten classes:{listed}{more}"
    )
