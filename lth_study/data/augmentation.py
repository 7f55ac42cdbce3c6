"""Random crops and flips drawn by `seeds`: tensor operations on a batch's device, for training and `image_files`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lth_study.seeds import PADDING, epoch_augmentation, epoch_crops
from lth_study.settings import Setting

NARROWEST, WIDEST = 3 / 4, 4 / 3
"""The bounds of a random crop's width / height."""


class Augmentation(Protocol):
    """Crops and flips, drawn for every example of an epoch."""

    def __call__(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Crop and flip images (uint8 [batch, channels, height, width]) of the examples `chosen` (int64 [batch])."""


def augmentation(
    setting: Setting, *, replicate: int, order: int, epoch: int, examples: int, device: torch.device
) -> Augmentation | None:
    """The augmentation of an epoch whose images are on `device`; None if the setting has none."""
    if not setting.augment:
        return None
    if setting.smallest_crop is None:
        shifts, flips = epoch_augmentation(replicate, order, epoch, examples)
        return PaddedCrops(shifts.to(device), flips.to(device))
    return ResizedCrops(epoch_crops(replicate, order, epoch, examples).to(device), setting.smallest_crop)


@dataclass(frozen=True)
class PaddedCrops:
    """CIFAR-10's augmentation: `shifts` [examples, 2] and `flips` [examples] as `crop_and_flip` takes them."""

    shifts: Tensor
    flips: Tensor

    def __call__(self, images: Tensor, chosen: Tensor) -> Tensor:
        return crop_and_flip(images, self.shifts.index_select(0, chosen), self.flips.index_select(0, chosen))


@dataclass(frozen=True)
class ResizedCrops:
    """ImageNet's augmentation: a crop of at least the share `smallest` of the area, scaled to the image's size.

    `draws` [examples, 5] are uniform in [0, 1): for the area, the shape, the top, the left, and the flip.
    """

    draws: Tensor
    smallest: float

    def __call__(self, images: Tensor, chosen: Tensor) -> Tensor:
        draws = self.draws.index_select(0, chosen)
        height, width = images.shape[2:]
        return resize_boxes(images, boxes(draws, height, width, self.smallest), flipped(draws))


def flipped(draws: Tensor) -> Tensor:
    """True for each image to mirror (bool [batch]); `draws` are those of `ResizedCrops`."""
    return draws[:, 4] < 0.5


def boxes(draws: Tensor, height: int, width: int, smallest: float) -> Tensor:
    """Random crops of images: top, left, height and width in pixels (int64, [batch, 4]).

    `draws` [batch, 4 or more] are uniform in [0, 1). As in torchvision's `RandomResizedCrop`, the share of the area is
    uniform in [`smallest`, 1], and width / height log-uniform in [3/4, 4/3]. A crop that does not fit is cut at the
    image's edges; torchvision would draw another.
    """
    area = (smallest + (1 - smallest) * draws[:, 0]) * (height * width)
    ratio = torch.exp(math.log(NARROWEST) + draws[:, 1] * math.log(WIDEST / NARROWEST))
    heights = (area / ratio).sqrt().round().clamp(1, height)
    widths = (area * ratio).sqrt().round().clamp(1, width)
    top = (draws[:, 2] * (height - heights + 1)).floor()
    left = (draws[:, 3] * (width - widths + 1)).floor()
    return torch.stack([top, left, heights, widths], 1).long()


def resize_boxes(images: Tensor, where: Tensor, flips: Tensor) -> Tensor:
    """Scale a crop of each image to the size of the image, bilinearly, and mirror some of them.

    `images` is uint8 [batch, channels, height, width], `where` [batch, 4] as `boxes` gives it, `flips` [batch] bool.
    """
    height, width = images.shape[2:]
    top, left, heights, widths = where.to(torch.float32).unbind(1)
    rows = _sampled(height, heights) + top[:, None]
    columns = _sampled(width, widths)
    columns = torch.where(flips[:, None], columns.flip(1), columns) + left[:, None]
    grid = torch.stack(
        [
            ((2 * columns + 1) / width - 1)[:, None, :].expand(-1, height, -1),
            ((2 * rows + 1) / height - 1)[:, :, None].expand(-1, -1, width),
        ],
        dim=3,
    )
    pixels = F.grid_sample(images.to(torch.float32), grid, padding_mode="border", align_corners=False)
    return pixels.round_().to(torch.uint8)


def _sampled(size: int, lengths: Tensor) -> Tensor:
    """The positions of `size` pixels along box edges of `lengths` [batch] pixels (float32 [batch, size])."""
    centres = (torch.arange(size, device=lengths.device) + 0.5) / size
    return torch.minimum((centres * lengths[:, None] - 0.5).clamp_min(0), lengths[:, None] - 1)


def crop_and_flip(images: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Pad each image with 4 black pixels, crop it to its original size, and mirror some of the crops.

    `images` is [batch, channels, height, width]. `shifts` [batch, 2] holds the top and left edge of the crop, 0 to 8.
    `flips` [batch] is True for each crop to mirror.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (PADDING,) * 4)
    rows = shifts[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = shifts[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    every = [torch.arange(size, device=images.device) for size in (batch, channels)]
    return padded[
        every[0][:, None, None, None], every[1][:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
