"""ImageNet for `data.load`: processes of torch's DataLoader read its files during training.

The content of a batch depends on its examples and draws alone, not on which process reads it or how many read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from lth_study.checked import whole_number
from lth_study.data.augmentation import Augmentation, ResizedCrops, boxes, flipped
from lth_study.data.image_folders import (
    Unreadable,
    for_each_image,
    kept_of,
    list_images,
    listing_digest,
    pixels,
    square,
)
from lth_study.data.parts import Batch, DataError, Dataset, hold_out
from lth_study.devices import cores
from lth_study.files import StoreError, write_atomic
from lth_study.settings import SettingError

MARGIN = 256 / 224
"""For evaluation an image's shorter side is scaled to this multiple of the square's side, then the square is cut."""
CPU = torch.device("cpu")
PATIENCE = 600
"""Seconds to wait for the next batch. After that, the reading processes count as stuck."""
Request = tuple[int, list[float] | None]
"""An example and the draws for its crop, or None for the square in its middle."""


def load_imagenet(root: Path, size: int) -> Dataset:
    """A folder `imagenet/{train,val}/<class>/*` with any classes; the images of `val` are for testing.

    The first call reads every image once, to find damaged ones before a training starts.
    """
    folder = root / "imagenet"
    if not (folder / "train").is_dir():
        raise DataError(
            f"{folder} is missing; ImageNet cannot be downloaded freely: put its images into "
            f"{folder}/{{train,val}}/<class>/, or use Imagenette (dataset 'imagenette')"
        )
    classes = sorted(path.name for path in (folder / "train").glob("[!.]*"))
    listing = list_images(folder, classes)
    checked = folder / f".checked-{listing_digest(folder, listing)}"
    if not checked.exists():
        for_each_image(folder, listing, lambda file: pixels(file).new_zeros(()))  # read the pixels, then drop them
        with suppress(StoreError, OSError):  # a read-only folder is checked again next time
            write_atomic(checked, b"every image can be read\n")
    train, test = (
        ImageFiles(folder, [file for file, _ in files], torch.tensor([label for _, label in files]), size, CPU)
        for files in listing.values()
    )
    return Dataset("imagenet", *hold_out(train, kept_of(len(train))), test)


@dataclass(frozen=True)
class ImageFiles:
    """A part whose images are read when needed, from `files` in `folder`. Labels are int64, on the CPU."""

    folder: Path
    files: Sequence[Path]
    labels: Tensor
    size: int
    device: torch.device
    """The device of the batches."""

    @property
    def chosen_on(self) -> torch.device:
        return self.labels.device

    def __len__(self) -> int:
        return len(self.files)

    def to(self, device: torch.device) -> ImageFiles:
        return replace(self, device=device)

    def of(self, examples: Tensor) -> ImageFiles:
        return replace(self, files=[self.files[index] for index in examples.tolist()], labels=self.labels[examples])

    def batches(self, chosen: Iterable[Tensor], augment: Augmentation | None) -> Iterator[Batch]:
        if augment is not None and not isinstance(augment, ResizedCrops):
            raise SettingError("smallest_crop: None is for images in memory; choose a share of the image, like 0.08")
        from PIL import Image
        from torchvision.transforms.v2 import functional  # noqa: F401 - import before the fork, or each reader imports it

        Image.preinit()
        readers = _readers()
        loader = DataLoader(
            _Reader(self, augment),
            batch_sampler=_requests(chosen, augment),
            num_workers=readers,
            timeout=PATIENCE if readers else 0,
            worker_init_fn=_in_a_group_of_its_own,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the default would draw a seed from torch's, and other threads share that
        )
        try:
            for images, labels in loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except Unreadable as error:
            what = str(error).strip().splitlines()[-1].removeprefix(f"{Unreadable.__module__}.Unreadable: ")
            raise DataError(
                f"{what}; it could be read before. Mend it and run again: finished trainings are kept"
            ) from None

    def identity(self) -> Iterator[bytes | memoryview]:
        for file, label in zip(self.files, self.labels.tolist(), strict=True):
            yield f"{file.relative_to(self.folder)} {label} {file.stat().st_size} {self.size}\n".encode()


@contextmanager
def dead_readers_explained() -> Iterator[None]:
    """Turn torch's errors for a dead or stuck reading process into a `DataError` that says what to do.

    A signal reports a dead process. It may interrupt an update, not only the wait for images."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        what = str(error).splitlines()[0]
        if "timed out" in what:
            why = f"no images have come for {PATIENCE} seconds ({what}); if the disk can be read"
        else:
            why = f"a process that reads images has died ({what}); if memory is short"
        raise DataError(
            f"{why}, set LTH_READERS to fewer than {_readers()} and run again: finished trainings are kept"
        ) from None


def _requests(chosen: Iterable[Tensor], crops: ResizedCrops | None) -> Iterator[list[Request]]:
    """The requests to the reading processes, batch by batch."""
    for examples in chosen:
        draws = [None] * len(examples) if crops is None else crops.draws[examples].tolist()
        yield list(zip(examples.tolist(), draws, strict=True))


@dataclass(frozen=True)
class _Reader(TorchDataset[tuple[Tensor, Tensor]]):
    """Reads, crops and scales an image."""

    part: ImageFiles
    crops: ResizedCrops | None

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor]:
        from torchvision.transforms.v2.functional import horizontal_flip, resized_crop

        index, drawn = request
        size, file = self.part.size, self.part.files[index]
        try:
            if self.crops is None or drawn is None:
                return square(file, size, round(size * MARGIN)), self.part.labels[index]
            image, draws = pixels(file), torch.tensor([drawn])
        except Unreadable as error:
            raise Unreadable(f"{file}: {error}") from None
        where = boxes(draws, image.shape[1], image.shape[2], self.crops.smallest)[0].tolist()
        cropped = resized_crop(image, *where, size=[size, size], antialias=True)
        return horizontal_flip(cropped) if flipped(draws) else cropped, self.part.labels[index]


def _in_a_group_of_its_own(number: int) -> None:
    """Keep Ctrl-C and `torchrun`'s signals, sent to a whole process group, from the readers. The training ends them."""
    os.setpgid(0, 0)


def _readers() -> int:
    """The number of processes that read images: `LTH_READERS`, or the cores divided by the processes of `torchrun`.
    With 0 the training process reads them."""
    return whole_number("LTH_READERS", max(1, cores() // max(1, whole_number("LOCAL_WORLD_SIZE", 1))))
