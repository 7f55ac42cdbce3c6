"""The ImageNet networks of the paper's section 5 for `build`: torchvision's ResNet-50, Inception-v3, SqueezeNet 1.0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models import inception

from lth_study.networks.network import ColorNetwork
from lth_study.seeds import seeded


def _inception_v3(classes: int, auxiliary: bool, width: float) -> inception.Inception3:
    """Inception-v3 with `width` times the filters in every convolution."""

    def convolution(inputs: int, outputs: int, **settings: Any) -> inception.BasicConv2d:
        inputs = inputs if inputs == 3 else round(width * inputs)
        return inception.BasicConv2d(inputs, round(width * outputs), **settings)

    kinds = [inception.InceptionA, inception.InceptionB, inception.InceptionC, inception.InceptionD]
    kinds += [inception.InceptionE, inception.InceptionAux]
    blocks = [convolution, *(partial(kind, conv_block=convolution) for kind in kinds)]
    network = inception.Inception3(classes, auxiliary, inception_blocks=blocks, init_weights=True)
    if width != 1:  # torchvision lets us choose the width of the blocks, but not of the last layers
        for head, deviation in ((network, 0.1), (network.AuxLogits, 0.001)):
            if head is not None:
                head.fc = nn.Linear(round(width * head.fc.in_features), classes)
                nn.init.trunc_normal_(head.fc.weight, std=deviation)
    return network


class Architecture(NamedTuple):
    """`build` makes a network of torchvision from a number of classes, whether it has an auxiliary head, and a width.
    `output` is the name of its output layer."""

    build: Callable[[int, bool, float], nn.Module]
    output: str


ARCHITECTURES = {
    "resnet50": Architecture(
        lambda classes, _, width: torchvision_models.resnet50(num_classes=classes, width_per_group=round(64 * width)),
        "fc",
    ),
    "inception_v3": Architecture(_inception_v3, "fc"),
    "squeezenet1_0": Architecture(
        lambda classes, *_: torchvision_models.squeezenet1_0(num_classes=classes), "classifier.1"
    ),
}


class ImageNetNetwork(ColorNetwork):
    """One of torchvision's networks. Its weights are undefined before `initialise` or `load_state_dict`.

    Takes uint8 images [batch, 3, height, width] and returns logits [batch, classes]. With `auxiliary`, Inception-v3
    returns the logits of the auxiliary head too, in training only. `width` multiplies the filters of Inception-v3's
    convolutions and of ResNet-50's bottlenecks. ResNet-50 keeps 256 to 2,048 channels between its bottlenecks.

    The weights of all convolutions are prunable, except the auxiliary head's. The output layer, a convolution in
    SqueezeNet, is prunable only with `prune_output`. The paper does not say which layers it pruned.
    """

    def __init__(
        self,
        network: str,
        *,
        classes: int = 10,
        auxiliary: bool = False,
        width: float = 1.0,
        prune_output: bool = False,
    ) -> None:
        super().__init__(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
        self.architecture = ARCHITECTURES[network]
        self.fresh = (classes, auxiliary, width)
        self.prune_output = prune_output
        with torch.device("meta"):  # drawing these weights would take seconds, and they are replaced anyway
            body = self.architecture.build(*self.fresh)
        self.body = body.to_empty(device=torch.get_default_device())

    def prunable(self) -> list[str]:
        output = f"body.{self.architecture.output}"
        names = [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]
        names = [name for name in names if name != output and not name.startswith("body.AuxLogits.")]
        return [f"{name}.weight" for name in ([*names, output] if self.prune_output else names)]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Initialise as torchvision does, with a seed drawn from `generator`."""
        with seeded(int(torch.randint(2**62, (), generator=generator))):
            fresh = self.architecture.build(*self.fresh)
        self.body.load_state_dict(fresh.state_dict())

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        outputs = self.body(self.scaled(images))
        if isinstance(outputs, inception.InceptionOutputs):
            return outputs.logits, outputs.aux_logits
        logits: Tensor = outputs
        return logits
