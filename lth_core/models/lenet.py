"""The network on MNIST."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lth_core.models.network import Network

Gradients = dict[str, Tensor]


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
