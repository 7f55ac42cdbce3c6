"""ResNet-20 and VGG-19 for CIFAR-10; `networks.build` makes them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lth_study.networks.network import ColorNetwork


class CifarNetwork(ColorNetwork):
    """ResNet-20 and VGG-19 share this scaling by CIFAR-10's pixels, this initialisation and these prunable weights.

    The weights of all 3x3 convolutions are prunable; those of 1x1 shortcuts and of the output layer are not.
    """

    def __init__(self, batch_norm_scale: Literal["uniform", "one"]) -> None:
        super().__init__(mean=(0.4914, 0.4822, 0.4465), deviation=(0.2470, 0.2435, 0.2616))
        self.batch_norm_scale = batch_norm_scale

    def prunable(self) -> list[str]:
        convolutions = {name: m for name, m in self.named_modules() if isinstance(m, nn.Conv2d)}
        return [f"{name}.weight" for name, m in convolutions.items() if m.kernel_size == (3, 3)]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Convolutions and output layer are Kaiming normal, N(0, 2 / inputs); batch-norm scales uniform in [0, 1] or 1.

        Scales are drawn in both cases, so one generator gives the same convolutions in both.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                deviation = math.sqrt(2 / module.weight[0].numel())
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * deviation)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator))
                if self.batch_norm_scale == "one":
                    module.weight.fill_(1.0)
                module.bias.zero_()


def _conv_norm(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the identity, or a 1x1 convolution if the shape changes.

    Slicing does the shortcut's stride; the numbers equal those of a strided 1x1 convolution. With few channels, oneDNN
    writes that convolution's gradient beyond its memory (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = _conv_norm(inputs, outputs, stride=stride)
        self.second = _conv_norm(outputs, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else _conv_norm(inputs, outputs, size=1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x[:, :, :: self.stride, :: self.stride])
        inside = F.relu(self.first(x), inplace=True)
        return F.relu(self.second(inside).add_(shortcut), inplace=True)


class ResNet20(CifarNetwork):
    """The CIFAR ResNet with 20 layers: 16, 32 and 64 filters, three blocks each (274K parameters, 267,696 prunable)."""

    def __init__(
        self, width: float = 1.0, batch_norm_scale: Literal["uniform", "one"] = "uniform", classes: int = 10
    ) -> None:
        super().__init__(batch_norm_scale)
        filters = [round(width * count) for count in (16, 32, 64)]
        self.stem = _conv_norm(3, filters[0])
        blocks, inputs = [], filters[0]
        for stage, outputs in enumerate(filters):
            for position in range(3):
                blocks.append(Block(inputs, outputs, stride=2 if stage and not position else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.stem(self.scaled(images)), inplace=True))
        logits: Tensor = self.output(features.mean((2, 3)))
        return logits


class VGG19(CifarNetwork):
    """VGG-19 for CIFAR: 16 convolutions in five stages, batch norm, one output layer (20.0M, 20,018,880 prunable)."""

    def __init__(
        self, width: float = 1.0, batch_norm_scale: Literal["uniform", "one"] = "uniform", classes: int = 10
    ) -> None:
        super().__init__(batch_norm_scale)
        stages, inputs = [], 3
        for count, repeats in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
            outputs = round(width * count)
            layers: list[nn.Module] = []
            for _ in range(repeats):
                layers += [_conv_norm(inputs, outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.output = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.scaled(images)
        for position, stage in enumerate(self.stages):
            x = stage(x if not position or min(x.shape[2:]) == 1 else F.max_pool2d(x, 2))
        logits: Tensor = self.output(x.mean((2, 3)))
        return logits
