"""The networks of the study, and which of their weights are pruned.

Every network takes uint8 images and scales them itself, can draw its own initial weights, and names its prunable ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lth_core.config import Config

Gradients = dict[str, Tensor]


class Network(nn.Module):
    """What the study asks of a network, beside being a module."""

    def prunable(self) -> list[str]:
        """The names of the weights that may be pruned."""
        raise NotImplementedError

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh initial weights, in place."""
        raise NotImplementedError


class LeNet300100(Network):
    """LeNet-300-100 for MNIST: 784-300-100-10, fully connected with ReLU; 266,200 weights, all prunable.

    Takes uint8 images [batch, 28, 28], scales them to [0, 1], and returns logits [batch, 10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.output = nn.Linear(100, 10)

    def prunable(self) -> list[str]:
        return ["fc1.weight", "fc2.weight", "output.weight"]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Gaussian Glorot: weights from N(0, 2 / (inputs + outputs)), biases zero (arXiv 1803.03635, section 2)."""
        for layer in (self.fc1, self.fc2, self.output):
            deviation = math.sqrt(2 / (layer.in_features + layer.out_features))
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * deviation)
            layer.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.fc1(_pixels(images)))
        logits: Tensor = self.output(F.relu(self.fc2(hidden)))
        return logits

    @torch.no_grad()
    def backward(self, images: Tensor, labels: Tensor, gradients: Gradients) -> None:
        """Write the gradient of the mean cross-entropy into `gradients` (parameter name -> tensor), by hand.

        The same numbers as autograd's up to rounding, without its bookkeeping, which on networks this small is a
        quarter of the time.
        """
        x = _pixels(images)
        h1 = torch.addmm(self.fc1.bias, x, self.fc1.weight.t()).relu_()
        h2 = torch.addmm(self.fc2.bias, h1, self.fc2.weight.t()).relu_()
        d3 = torch.softmax(torch.addmm(self.output.bias, h2, self.output.weight.t()), 1)
        d3.scatter_add_(1, labels[:, None], d3.new_full((len(labels), 1), -1.0)).div_(len(labels))
        d2 = torch.mm(d3, self.output.weight).mul_(h2.sign())  # the slope of ReLU, 0 or 1
        d1 = torch.mm(d2, self.fc2.weight).mul_(h1.sign())
        for name, delta, below in (("output", d3, h2), ("fc2", d2, h1), ("fc1", d1, x)):
            torch.mm(delta.t(), below, out=gradients[f"{name}.weight"])
            torch.sum(delta, 0, out=gradients[f"{name}.bias"])


def _pixels(images: Tensor) -> Tensor:
    return images.view(len(images), -1) * (1 / 255)


class ColorNetwork(Network):
    """A network that takes uint8 images [batch, 3, height, width] and standardises each channel of their pixels.

    `mean` and `deviation` are of pixels between 0 and 1, a value for each channel.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1), persistent=False)

    def scaled(self, images: Tensor) -> Tensor:
        pixels = images.to(memory_format=torch.channels_last).to(torch.float32)
        return (pixels / 255 - self.mean) / self.deviation


class CifarNetwork(ColorNetwork):
    """What ResNet-20 and VGG-19 share: their scaling, by CIFAR-10's pixels, their initialisation, what is pruned.

    Prunable are the weights of all 3x3 convolutions; 1x1 shortcuts and the output layer are not.
    """

    def __init__(self) -> None:
        super().__init__(mean=(0.4914, 0.4822, 0.4465), deviation=(0.2470, 0.2435, 0.2616))

    def prunable(self) -> list[str]:
        convolutions = {name: m for name, m in self.named_modules() if isinstance(m, nn.Conv2d)}
        return [f"{name}.weight" for name, m in convolutions.items() if m.kernel_size == (3, 3)]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Kaiming normal convolutions and output layer, N(0, 2 / inputs); batch-norm scales uniform in [0, 1]."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                deviation = math.sqrt(2 / module.weight[0].numel())
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * deviation)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator))
                module.bias.zero_()


def _conv_norm(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes.

    The shortcut's stride is taken by slicing: the same numbers as a strided 1x1 convolution's, whose gradient oneDNN
    writes beyond its memory for few channels (https://github.com/uxlfoundation/oneDNN/issues/6035).
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

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        filters = [round(width * count) for count in (16, 32, 64)]
        self.stem = _conv_norm(3, filters[0])
        blocks, inputs = [], filters[0]
        for stage, outputs in enumerate(filters):
            for position in range(3):
                blocks.append(Block(inputs, outputs, stride=2 if stage and not position else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(inputs, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.stem(self.scaled(images)), inplace=True))
        logits: Tensor = self.output(features.mean((2, 3)))
        return logits


class VGG19(CifarNetwork):
    """VGG-19 for CIFAR: 16 convolutions in five stages, batch norm, one output layer (20.0M, 20,018,880 prunable)."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        stages, inputs = [], 3
        for count, repeats in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
            outputs = round(width * count)
            layers: list[nn.Module] = []
            for _ in range(repeats):
                layers += [_conv_norm(inputs, outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.output = nn.Linear(inputs, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.scaled(images)
        for position, stage in enumerate(self.stages):
            x = stage(x if not position or min(x.shape[2:]) == 1 else F.max_pool2d(x, 2))
        logits: Tensor = self.output(x.mean((2, 3)))
        return logits


def build(config: Config) -> Network:
    """The network of a configuration, its weights not yet those of a replicate."""
    if config.network == "lenet_300_100":
        return LeNet300100()
    if config.network == "resnet20":
        return ResNet20(config.width)
    if config.network == "vgg19":
        return VGG19(config.width)
    from lth_core.imagenet_models import ImageNetNetwork  # torchvision's networks take a while to import

    return ImageNetNetwork(
        config.network,
        classes=config.classes,
        auxiliary=config.auxiliary_loss > 0,
        width=config.width,
        prune_output=config.prune_output,
    )


def initial_weights(config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    """W_0: the state dict of a network freshly initialised from a random stream."""
    model = build(config)
    model.initialise(generator)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
