"""Base classes of the study's networks: the interface that `train` and the worker use, and scaling of colour images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """A module that names its prunable weights and draws its initial ones."""

    def prunable(self) -> list[str]:
        """The names of the weights that may be pruned."""
        raise NotImplementedError

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh initial weights, in place."""
        raise NotImplementedError


class ColorNetwork(Network):
    """A network that takes uint8 images [batch, 3, height, width] and standardises each channel of their pixels.

    Images in floating point are taken as they are.

    `mean` and `deviation` have a value for each channel, for pixels scaled to [0, 1].
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1), persistent=False)

    def scaled(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            return images
        pixels = images.to(memory_format=torch.channels_last).to(torch.float32)
        return (pixels / 255 - self.mean) / self.deviation
