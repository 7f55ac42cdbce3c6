"""LeNet-300-100 for MNIST; `networks.build` makes it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lth_study.networks.network import Network

Gradients = dict[str, Tensor]


class LeNet300100(Network):
    """LeNet-300-100 for MNIST: 784-300-100-10, fully connected with ReLU; 266,200 weights, all prunable.

    Takes uint8 images [batch, 28, 28], scales them to [0, 1], and returns logits [batch, 10].
    Images in floating point are taken as they are.
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

    def backward(self, gradients: Gradients) -> Callable[[Tensor, Tensor], None]:
        """A function of images and labels that writes the gradient of the mean cross-entropy into `gradients`
        (parameter name -> tensor), without autograd.

        The numbers equal autograd's up to rounding; its bookkeeping takes a quarter of the time on so small a network.
        Weights are looked up once, here: a look-up takes as long as some of these operations. They may therefore change
        only in place.
        """
        layers = {"fc1": self.fc1, "fc2": self.fc2, "output": self.output}
        w1, w2, w3 = (layer.weight.detach() for layer in layers.values())
        b1, b2, b3 = (layer.bias.detach() for layer in layers.values())
        w1_t, w2_t, w3_t = w1.t(), w2.t(), w3.t()
        (g1, s1), (g2, s2), (g3, s3) = ((gradients[f"{name}.weight"], gradients[f"{name}.bias"]) for name in layers)

        @torch.no_grad()
        def write(images: Tensor, labels: Tensor) -> None:
            x = _pixels(images)
            h1 = torch.addmm(b1, x, w1_t).relu_()
            h2 = torch.addmm(b2, h1, w2_t).relu_()
            d3 = torch.softmax(torch.addmm(b3, h2, w3_t), 1)
            d3.scatter_add_(1, labels[:, None], d3.new_full((len(labels), 1), -1.0)).div_(len(labels))
            d2 = torch.mm(d3, w3).mul_(h2.sign())  # the slope of ReLU, 0 or 1
            d1 = torch.mm(d2, w2).mul_(h1.sign())
            for weight, bias, delta, below in ((g3, s3, d3, h2), (g2, s2, d2, h1), (g1, s1, d1, x)):
                torch.mm(delta.t(), below, out=weight)
                torch.sum(delta, 0, out=bias)

        return write


def _pixels(images: Tensor) -> Tensor:
    if images.is_floating_point():
        return images.flatten(1)
    return images.view(len(images), -1).to(torch.float32, copy=True).mul_(1 / 255)
