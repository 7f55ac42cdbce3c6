"""Random crops and mirrors: against torchvision's operations an image at a time, and against their distribution."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from lth_study.data.augmentation import (
    PaddedCrops,
    ResizedCrops,
    augmentation,
    boxes,
    crop_and_flip,
    flipped,
    resize_boxes,
)
from lth_study.presets import preset
from lth_study.seeds import epoch_augmentation, epoch_crops
from lth_study.settings import SettingError

CPU = torch.device("cpu")


def noise(count: int, height: int = 20, width: int = 20) -> Tensor:
    chance = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (count, 3, height, width), generator=chance, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(20, 20), (9, 16)])
def test_every_crop_is_torchvisions(size: tuple[int, int]):
    draws = epoch_crops(1, 0, 0, 200)
    images, where = noise(200, *size), boxes(draws, *size, 0.08)
    done = resize_boxes(images, where, flipped(draws))
    assert (done.dtype, done.shape) == (torch.uint8, images.shape)
    for image, box, flip, ours in zip(images, where.tolist(), flipped(draws), done, strict=True):
        cropped = TF.resized_crop(image.float(), *box, size=list(size), antialias=False)
        expected = TF.horizontal_flip(cropped) if flip else cropped
        assert (ours.float() - expected).abs().max() <= 0.502  # a rounding to whole values


def test_the_whole_image_stays_as_it_is_or_is_mirrored():
    images = noise(2)
    done = resize_boxes(images, torch.tensor([[0, 0, 20, 20]]).expand(2, 4), torch.tensor([False, True]))
    assert torch.equal(done[0], images[0])
    assert torch.equal(done[1], images[1].flip(2))


def test_crops_lie_in_the_image_with_the_area_and_shape_that_are_asked_for():
    draws = epoch_crops(3, 0, 0, 20_000)
    top, left, heights, widths = boxes(draws, 1_000, 1_000, 0.1).double().unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert max((top + heights).max(), (left + widths).max()) <= 1_000
    whole = (heights < 1_000) & (widths < 1_000)  # the others were cut at the edges
    area, ratio = heights * widths / 1e6, widths / heights
    assert 0.098 < area[whole].min() < 0.11
    assert 0.74 < ratio[whole].min() < ratio[whole].max() < 1.35
    small = area < 0.5  # small enough never to be cut
    assert np.histogram(area[small], bins=4, range=(0.1, 0.5))[0] / int(small.sum()) == pytest.approx(
        [0.25] * 4, abs=0.02
    )
    logs = np.histogram(ratio[small].log(), bins=4, range=(math.log(3 / 4), math.log(4 / 3)))[0]
    assert logs / int(small.sum()) == pytest.approx([0.25] * 4, abs=0.02)
    free = (top / (1_000 - heights))[small]
    assert free.mean() == pytest.approx(0.5, abs=0.02)
    assert float(flipped(draws).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_a_crop_of_all_of_a_wide_image_is_cut_to_its_edges():
    everything = torch.tensor([[1.0, 0.5, 0.0, 0.0, 0.9]])
    assert boxes(everything, 10, 40, 0.08).tolist() == [[0, 0, 10, 20]]


def test_draws_repeat_and_differ_between_replicates_orders_and_epochs():
    names = [(replicate, order, epoch) for replicate in (1, 2) for order in (0, 1) for epoch in (0, 1)]
    for draw in (lambda *name: epoch_crops(*name, 4), lambda *name: torch.cat([*epoch_augmentation(*name, 30)[0].T])):
        drawn = {name: tuple(draw(*name).flatten().tolist()) for name in names}
        assert len(set(drawn.values())) == len(names)
        assert drawn == {name: tuple(draw(*name).flatten().tolist()) for name in reversed(names)}
    assert 0 <= epoch_crops(1, 0, 0, 1_000).min() <= epoch_crops(1, 0, 0, 1_000).max() < 1


def test_a_batch_is_cropped_by_the_draws_of_its_own_examples():
    crops = ResizedCrops(epoch_crops(1, 0, 0, 6), 0.2)
    images, chosen = noise(6), torch.tensor([4, 1])
    every = crops(images, torch.arange(6))
    assert torch.equal(crops(images[chosen], chosen), every[chosen])


def test_a_setting_says_which_crops():
    setting = preset("squeezenet1_0", profile="laptop").setting
    drawn = {"replicate": 1, "order": 0, "epoch": 0, "examples": 5, "device": CPU}
    assert augmentation(setting.updated(augment=False, smallest_crop=None), **drawn) is None
    assert isinstance(augmentation(setting.updated(smallest_crop=None), **drawn), PaddedCrops)
    assert augmentation(setting.updated(smallest_crop=0.4), **drawn).smallest == 0.4
    with pytest.raises(SettingError, match=r"smallest_crop: 0\.4 has no effect without augment=True"):
        setting.updated(augment=False, smallest_crop=0.4)


# Crops of padded images


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 12, 5)])
def test_every_crop_of_a_padded_image_with_and_without_a_mirror_is_torchvisions(shape: tuple[int, ...]):
    every = torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2))
    chance = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (len(every), *shape), generator=chance, dtype=torch.uint8)
    before, expected = images.clone(), []
    for image, (top, left, flip) in zip(images, every.tolist(), strict=True):
        cropped = TF.crop(TF.pad(image, [4, 4, 4, 4]), top, left, *shape[1:])
        expected.append(TF.horizontal_flip(cropped) if flip else cropped)
    done = crop_and_flip(images, every[:, :2], every[:, 2] == 1)
    assert done.dtype == torch.uint8
    assert torch.equal(done, torch.stack(expected))
    assert torch.equal(images, before)


def test_an_epochs_draws_shift_by_0_to_8_and_mirror_half_and_are_those_the_records_were_made_with():
    before = torch.get_rng_state()
    shifts, flips = epoch_augmentation(1, 0, 0, 45_000)
    assert torch.equal(torch.get_rng_state(), before)
    assert shifts[:3].tolist() == [[8, 3], [2, 3], [4, 5]]
    assert flips[:5].tolist() == [True, True, False, False, False]
    for edge in shifts.T:
        assert edge.bincount().numpy() / 45_000 == pytest.approx(np.full(9, 1 / 9), abs=0.01)
    assert abs(float(flips.double().mean()) - 0.5) < 0.01
    drawn = torch.stack([*shifts.T, flips]).double()
    assert (torch.corrcoef(drawn) - torch.eye(3)).abs().max() < 0.02
