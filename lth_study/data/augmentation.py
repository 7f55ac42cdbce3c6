"""What random crops and flips do to the images of a batch, as tensor operations on the device that holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lth_study.seeds import PADDING, epoch_augmentation, epoch_crops
from lth_study.settings import Config

NARROWEST, WIDEST = 3 / 4, 4 / 3
"""Of the shapes of random crops: width / height."""


class Augmentation(Protocol):
    """What is drawn for every example of an epoch."""

    def __call__(self, images: Tensor, chosen: Tensor) -> Tensor:
        """The images (uint8 [batch, channels, height, width]) of the examples `chosen`, each changed as drawn."""


def augmentation(
    config: Config, *, replicate: int, order: int, epoch: int, examples: int, device: torch.device
) -> Augmentation | None:
    """What a training does to the images of an epoch, which are on `device`; None where it leaves them as they are."""
    if not config.augment:
        return None
    if config.smallest_crop is None:
        shifts, flips = epoch_augmentation(replicate, order, epoch, examples)
        return PaddedCrops(shifts.to(device), flips.to(device))
    return ResizedCrops(epoch_crops(replicate, order, epoch, examples).to(device), config.smallest_crop)


@dataclass(frozen=True)
class PaddedCrops:
    """CIFAR-10's: `shifts` [examples, 2] and `flips` [examples], see `crop_and_flip`."""

    shifts: Tensor
    flips: Tensor

    def __call__(self, images: Tensor, chosen: Tensor) -> Tensor:
        return crop_and_flip(images, self.shifts.index_select(0, chosen), self.flips.index_select(0, chosen))


@dataclass(frozen=True)
class ResizedCrops:
    """ImageNet's: a part of the image, of `smallest` of its area or more, scaled to the image's size.

    `draws` [examples, 5] are uniform in [0, 1): for the area, the shape, the two edges, and the flip.
    """

    draws: Tensor
    smallest: float

    def __call__(self, images: Tensor, chosen: Tensor) -> Tensor:
        draws = self.draws.index_select(0, chosen)
        height, width = images.shape[2:]
        return resize_boxes(images, boxes(draws, height, width, self.smallest), flipped(draws))


def flipped(draws: Tensor) -> Tensor:
    """Which of the images are mirrored (bool [batch]), by the draws that `ResizedCrops` describes."""
    return draws[:, 4] < 0.5


def boxes(draws: Tensor, height: int, width: int, smallest: float) -> Tensor:
    """Where random crops lie in images of a size: top, left, height and width in pixels (int64, [batch, 4]).

    `draws` [batch, 4 or more] are uniform in [0, 1). The area is uniform between `smallest` of the image and all of
    it, the shape log-uniform between 3/4 and 4/3, as in torchvision's `RandomResizedCrop`; but a crop that would not
    fit is cut at the image's edges, where torchvision draws another one.
    """
    area = (smallest + (1 - smallest) * draws[:, 0]) * (height * width)
    ratio = torch.exp(math.log(NARROWEST) + draws[:, 1] * math.log(WIDEST / NARROWEST))
    heights = (area / ratio).sqrt().round().clamp(1, height)
    widths = (area * ratio).sqrt().round().clamp(1, width)
    top = (draws[:, 2] * (height - heights + 1)).floor()
    left = (draws[:, 3] * (width - widths + 1)).floor()
    return torch.stack([top, left, heights, widths], 1).long()


def resize_boxes(images: Tensor, where: Tensor, flips: Tensor) -> Tensor:
    """Scale a part of each image to the size of the image, bilinearly, and mirror some of them.

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
    """Where the pixels of an edge of `size` pixels lie in boxes with edges of so many ([batch, size])."""
    centres = (torch.arange(size, device=lengths.device) + 0.5) / size
    return torch.minimum((centres * lengths[:, None] - 0.5).clamp_min(0), lengths[:, None] - 1)


def crop_and_flip(images: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Crop each image out of itself padded by 4 black pixels, and mirror some of them.

    `images` is [batch, channels, height, width]; `shifts` [batch, 2] holds the top and left edge of the crop, 0 to 8,
    and `flips` [batch] is True where the crop is mirrored.
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
