"""The ImageNet networks of the paper's section 5: torchvision's ResNet-50, Inception-v3 and SqueezeNet 1.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.inception import InceptionOutputs

from lth_core.models.network import ColorNetwork
from lth_core.seeds import seeded


class Architecture(NamedTuple):
    """How torchvision builds a network, for a number of classes, with an auxiliary head or without, of a width, and
    which of its modules is the output layer."""

    build: Callable[[int, bool, float], nn.Module]
    output: str


ARCHITECTURES = {
    "resnet50": Architecture(
        lambda classes, _, width: torchvision_models.resnet50(num_classes=classes, width_per_group=round(64 * width)),
        "fc",
    ),
    "inception_v3": Architecture(
        lambda classes, auxiliary, _: torchvision_models.inception_v3(
            num_classes=classes, aux_logits=auxiliary, transform_input=False, init_weights=True
        ),
        "fc",
    ),
    "squeezenet1_0": Architecture(
        lambda classes, *_: torchvision_models.squeezenet1_0(num_classes=classes), "classifier.1"
    ),
}


class ImageNetNetwork(ColorNetwork):
    """One of torchvision's networks, untrained: its weights are not set before `initialise` or `load_state_dict`.

    Takes uint8 images [batch, 3, height, width] and returns logits [batch, classes]. With `auxiliary`, Inception-v3
    has its auxiliary head, which takes part in training only: there it returns both heads' logits. `width` is a factor
    on the channels of the bottlenecks of ResNet-50, which keeps 256 to 2,048 between them.

    Prunable are the weights of all convolutions but the auxiliary head's and, in SqueezeNet, the output layer's; with
    `prune_output` the output layer's too. The paper does not say which layers it pruned.
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
        with torch.device("meta"):  # drawing weights that are replaced anyway would take seconds
            body = self.architecture.build(*self.fresh)
        self.body = body.to_empty(device=torch.get_default_device())

    def prunable(self) -> list[str]:
        output = f"body.{self.architecture.output}"
        names = [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]
        names = [name for name in names if name != output and not name.startswith("body.AuxLogits.")]
        return [f"{name}.weight" for name in ([*names, output] if self.prune_output else names)]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As torchvision initialises it; a seed for that is drawn from `generator`."""
        with seeded(int(torch.randint(2**62, (), generator=generator))):
            fresh = self.architecture.build(*self.fresh)
        self.body.load_state_dict(fresh.state_dict())

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        outputs = self.body(self.scaled(images))
        if isinstance(outputs, InceptionOutputs):
            return outputs.logits, outputs.aux_logits
        logits: Tensor = outputs
        return logits
