"""The networks of the study, for training, the worker, `barriers` and `costs`.

Every network takes uint8 images and scales them, draws its initial weights, and names its prunable weights. Images in
floating point are taken as scaled already.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lth_study.networks.cifar import VGG19, ResNet20
from lth_study.networks.lenet import LeNet300100
from lth_study.networks.network import Network
from lth_study.settings import Setting


def build(setting: Setting) -> Network:
    """The network of a setting. Its weights are not yet those of a replicate."""
    if setting.network == "lenet_300_100":
        return LeNet300100()
    if setting.network == "resnet20":
        return ResNet20(setting.width, setting.batch_norm_scale, setting.classes)
    if setting.network == "vgg19":
        return VGG19(setting.width, setting.batch_norm_scale, setting.classes)
    from lth_study.networks.imagenet import ImageNetNetwork  # importing torchvision is slow

    return ImageNetNetwork(
        setting.network,
        classes=setting.classes,
        auxiliary=setting.auxiliary_loss > 0,
        width=setting.width,
        prune_output=setting.prune_output,
    )


def initial_weights(setting: Setting, generator: torch.Generator) -> dict[str, Tensor]:
    """W_0: the state dict of a network freshly initialised from a random stream."""
    model = build(setting)
    model.initialise(generator)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
