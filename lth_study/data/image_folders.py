"""Folders of images in ImageNet's layout, `{train,val}/<class>/*`, for `data` and the readers of data sets.

Imagenette, ten of ImageNet's classes, is decoded once to squares held in memory. A folder is checked before any image
is used; one `DataError` lists all its faults.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from lth_study.data.parts import DataError, Dataset, Split, hold_out
from lth_study.files import StoreError, read_state, write_state

IMAGENETTE = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413",
              "n03445777", "n03888257")  # fmt: skip
"""WordNet identifiers of Imagenette's classes. They name the folders; a label is a position in this list."""
IMAGENETTE_FOLDERS = ("imagenette", "imagenette2", "imagenette2-320", "imagenette2-160")
IMAGENET_PARTS = ("train", "val")
HELD_OUT = 0.05
"""The fraction of the training images that is held out for validation."""
_SHOWN = 10
Listing = Mapping[str, Sequence[tuple[Path, int]]]
"""Part of a data set -> its image files and their labels."""


def find_imagenette(root: Path) -> Path | None:
    """The folder of Imagenette's images under one of its usual names; None if there is none."""
    return next((root / name for name in IMAGENETTE_FOLDERS if (root / name / "train").is_dir()), None)


def load_imagenette(root: Path, size: int) -> Dataset:
    """Imagenette in memory; the images of `val` are for testing.

    Each image is scaled until its shorter side has `size` pixels, then cropped to the square in its middle. The squares
    of each size are cached in the folder.
    """
    folder = find_imagenette(root)
    if folder is None:
        raise DataError(f"no folder {' or '.join(IMAGENETTE_FOLDERS)} with images in {root} (see LTH_DATA)")
    train, test = decoded_once(folder, list_images(folder, IMAGENETTE), size)
    return Dataset("imagenette", *hold_out(train, kept_of(len(train))), test)


def kept_of(examples: int) -> int:
    """The number of images to train on, of `examples` training images. The others are held out for validation."""
    return examples - max(1, round(HELD_OUT * examples))


def list_images(folder: Path, classes: Sequence[str]) -> dict[str, list[tuple[Path, int]]]:
    """The images of `train` and `val` with their labels: the positions of their folders in `classes`. One `DataError`
    lists all faults."""
    listing, problems = found_images(folder, classes, IMAGENET_PARTS)
    refuse(folder, listing, problems)
    return listing


def found_images(
    folder: Path, classes: Sequence[str], parts: Iterable[str]
) -> tuple[dict[str, list[tuple[Path, int]]], list[str]]:
    """The images of these parts, as `list_images` returns them, and all that is wrong with the folder."""
    listing: dict[str, list[tuple[Path, int]]] = {part: [] for part in parts}
    problems = []
    for part, files in listing.items():
        for label, name in enumerate(classes):
            found = sorted((folder / part / name).glob("[!.]*"))
            if not found:
                problems.append(f"{part}/{name}: no images of this class")
            files += [(file, label) for file in found]
        others = [path for path in sorted((folder / part).glob("[!.]*")) if path.name not in classes]
        problems += [f"{path.relative_to(folder)}: not one of the {len(classes):,} classes" for path in others]
    return listing, problems


def for_each_image(folder: Path, listing: Listing, read: Callable[[Path], Tensor]) -> Mapping[str, list[Tensor]]:
    """`read` applied to every image. One `DataError` lists all images for which it raises `Unreadable`."""
    made, problems = read_images(folder, listing, read)
    refuse(folder, listing, problems)
    return made


def read_images(
    folder: Path, listing: Listing, read: Callable[[Path], Tensor]
) -> tuple[Mapping[str, list[Tensor]], list[str]]:
    """What `read` makes of every image, and a line for each image for which it raises `Unreadable`."""

    def attempt(file: Path) -> Tensor | str:
        try:
            return read(file)
        except Unreadable as error:
            return f"{file.relative_to(folder)}: {error}"

    made: dict[str, list[Tensor]] = {}
    problems = []
    with ThreadPoolExecutor() as threads:
        for part, files in listing.items():
            results = list(threads.map(attempt, (file for file, _ in files)))
            problems += [result for result in results if isinstance(result, str)]
            made[part] = [result for result in results if not isinstance(result, str)]
    return made, problems


def decoded_once(folder: Path, listing: Listing, size: int) -> list[Split]:
    """The parts of a folder of images, as squares of `size` pixels. The first call caches the squares in the folder.

    The cache is valid until a file is added, removed or changed.
    """
    cache = folder / f".decoded-{size}-{listing_digest(folder, listing)}.safetensors"
    try:
        state, _ = read_state(cache)
    except StoreError:
        squares = for_each_image(folder, listing, lambda file: square(file, size))
        state = {part: torch.stack(images) for part, images in squares.items()}
        with suppress(StoreError, OSError):  # a read-only folder is decoded again next time
            for outdated in folder.glob(f".decoded-{size}-*.safetensors"):
                outdated.unlink()
            write_state(cache, state)
    return [Split(state[part], torch.tensor([label for _, label in files])) for part, files in listing.items()]


def listing_digest(folder: Path, listing: Listing) -> str:
    """Sixteen hexadecimal digits that change when a file is added, removed or changed."""
    digest = hashlib.sha256()
    for file, label in (entry for part in listing.values() for entry in part):
        status = file.stat()
        digest.update(f"{file.relative_to(folder)} {label} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


class Unreadable(Exception):
    """A file is not an image, or is a truncated one."""


def pixels(file: Path) -> Tensor:
    """An image's pixels (uint8 [3, height, width])."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        with Image.open(file) as image:
            read: Tensor = pil_to_tensor(image.convert("RGB"))
            return read
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(f"not a readable image ({str(error).replace(str(file), file.name)})") from None


def square(file: Path, size: int, edge: int | None = None) -> Tensor:
    """Scale an image's shorter side to `edge` pixels (default: `size`) and cut the middle square of `size` pixels."""
    from torchvision.transforms.v2.functional import center_crop, resize

    scaled = resize(pixels(file), [edge or size], antialias=True)
    cropped: Tensor = center_crop(scaled, [size])
    return cropped


def refuse(folder: Path, parts: Iterable[str], problems: Sequence[str]) -> None:
    """Raise a `DataError` that lists the problems of a folder with these parts; do nothing if there are none."""
    if not problems:
        return
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    listed = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
    layout = f"{{{','.join(parts)}}}/<class>/ with images of every class in each"
    raise DataError(f"{folder} is not as expected, {layout}. Mend:{listed}{more}")
