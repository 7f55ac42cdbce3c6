"""The networks of the study, for training, the worker, `barriers` and `costs`.

Every network takes uint8 images and scales them, draws its initial weights, and names its prunable weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lth_study.networks.cifar import VGG19, ResNet20
from lth_study.networks.lenet import LeNet300100
from lth_study.networks.network import Network
from lth_study.settings import Config


def build(config: Config) -> Network:
    """The network of a configuration. Its weights are not yet those of a replicate."""
    if config.network == "lenet_300_100":
        return LeNet300100()
    if config.network == "resnet20":
        return ResNet20(config.width, config.batch_norm_scale)
    if config.network == "vgg19":
        return VGG19(config.width, config.batch_norm_scale)
    from lth_study.networks.imagenet import ImageNetNetwork  # importing torchvision is slow

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
