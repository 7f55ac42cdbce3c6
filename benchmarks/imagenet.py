"""ImageNet's networks at the paper's size, on random images that are held in memory: training images per second.

Batches are small, so that a round takes seconds: an image costs nearly the same in a large one. The hours that the
study needs on a processor are computed from these rates.
"""

from __future__ import annotations

import torch
from common import Row, interleaved, row
from convolutional import ITERATIONS, ours_variant

from lth_core import data, preset
from lth_core.config import IMAGENET_NETWORKS, Config
from lth_core.data import image_shape
from lth_core.report import NETWORK_NAMES

BATCH = 8
ROUNDS = 3
"""At most, since a round takes more than half a minute."""


def rows(rounds: int) -> list[Row]:
    """Images per second of every network."""
    configs = {network: preset(network).updated(batch_size=BATCH, pieces=1) for network in IMAGENET_NETWORKS}
    seconds = interleaved(
        {network: ours_variant(config, images(config)) for network, config in configs.items()}, rounds
    )
    return [
        row(f"{NETWORK_NAMES[network]}, ours (images/s)", "images/s", ITERATIONS * BATCH / seconds[network])
        for network in configs
    ]


def images(config: Config) -> data.Dataset:
    """Random images, as many as the timed iterations take."""
    count = BATCH * (ITERATIONS + 1)
    pixels = torch.randint(
        256, (count, *image_shape(config.dataset, color=True, size=config.image_size)), dtype=torch.uint8
    )
    part = data.Split(pixels, torch.randint(config.classes, (count,)))
    return data.Dataset("random", part, part, part)
