"""What one core of this machine reaches: the two rates that floors are computed with.

    matrix product   large products of float32 matrices: floating-point operations a second, by the faster of the two
                     libraries that torch has for them. For matrices it takes MKL, which is slow on some processors of
                     other makers; for convolutions oneDNN, to which a product is a convolution with filters of 1x1.
    copy             an array much larger than the caches, copied to another: bytes a second, read and written

Each network's benchmark lets them take turns with its own variants, so that what it did and its floor are of one time.
"""

from __future__ import annotations

import pandas as pd
import torch
from common import Row, Variant, row, timed
from torch.nn import functional as F

from lth_study.costs.benchmarks import MATRIX_PRODUCT
from lth_study.costs.limits import CACHE_BYTES, floor_seconds
from lth_study.settings import Setting
from lth_study.training.train import steady_arithmetic

SIDE = 1024
"""Of the square matrices whose product is timed."""
PRODUCTS = 20
COPIED_BYTES = 8 * CACHE_BYTES
COPIES = 4


def variants() -> dict[str, Variant]:
    """The work that is timed for each rate."""
    left, right, product = torch.randn(3, SIDE, SIDE)
    pixels = left.view(32, SIDE // 32, 1, SIDE).permute(0, 3, 1, 2)  # a row of the matrix is a pixel, channels last
    filters = right.view(SIDE, SIDE, 1, 1).to(memory_format=torch.channels_last)
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8)
    copied = torch.zeros_like(source)

    def multiply() -> None:
        with steady_arithmetic():
            for _ in range(PRODUCTS):
                torch.mm(left, right, out=product)

    def convolve() -> None:
        with steady_arithmetic(), torch.no_grad():
            for _ in range(PRODUCTS):
                F.conv2d(pixels, filters)

    def copy() -> None:
        with steady_arithmetic():
            for _ in range(COPIES):
                copied.copy_(source)

    return {"matrix product": timed(multiply), "1x1 convolution": timed(convolve), "copy": timed(copy)}


def flops_per_second(seconds: pd.DataFrame) -> pd.Series:
    """The rate of arithmetic, in every round."""
    return PRODUCTS * 2 * SIDE**3 / seconds[["matrix product", "1x1 convolution"]].min(axis=1)


def bytes_per_second(seconds: pd.DataFrame) -> pd.Series:
    """The rate of memory, in every round; a copied byte is read and written."""
    return COPIES * 2 * COPIED_BYTES / seconds["copy"]


def rows(seconds: pd.DataFrame) -> list[Row]:
    """Both rates."""
    return [
        row(MATRIX_PRODUCT, "GFLOP/s", flops_per_second(seconds) / 1e9),
        row("memory bandwidth (GB/s)", "GB/s", bytes_per_second(seconds) / 1e9),
    ]


def floor_of_iteration(setting: Setting, seconds: pd.DataFrame) -> pd.Series:
    """The least seconds that a training iteration takes, at the rates of every round."""
    rates = zip(flops_per_second(seconds), bytes_per_second(seconds), strict=True)
    return pd.Series([floor_seconds(setting, *pair) / setting.iterations for pair in rates], index=seconds.index)
