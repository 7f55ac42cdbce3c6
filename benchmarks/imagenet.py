"""ImageNet's networks at the paper's size, on random images that are held in memory: training images per second.

Batches are small, so that a round takes seconds: an image costs nearly the same in a large one. The hours that the
study needs on a processor are computed from these rates.
"""

from __future__ import annotations

from common import Row, interleaved, random_images, row
from convolutional import ITERATIONS, ours_variant

from lth_study import preset
from lth_study.report import NETWORK_NAMES
from lth_study.settings import IMAGENET_NETWORKS

BATCH = 8
ROUNDS = 3
"""At most, since a round takes more than half a minute."""


def rows(rounds: int) -> list[Row]:
    """Images per second of every network."""
    settings = {network: preset(network).setting.updated(batch_size=BATCH, pieces=1) for network in IMAGENET_NETWORKS}
    count = BATCH * (ITERATIONS + 1)
    variants = {network: ours_variant(setting, random_images(setting, count)) for network, setting in settings.items()}
    seconds = interleaved(variants, rounds)
    return [
        row(f"{NETWORK_NAMES[network]}, ours (images/s)", "images/s", ITERATIONS * BATCH / seconds[network])
        for network in settings
    ]
