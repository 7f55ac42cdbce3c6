"""Where the time of our training goes: shares of the processor's own time in every kind of work, by torch's profiler.

    convolutions and products   convolutions and matrix products, forward and backward
    batch norm                  forward and backward
    ReLU and sums               of ResNet's shortcuts, and of gradients that meet
    optimiser and mask          from the finished gradient to the new weights
    data and augmentation       choosing, cropping and flipping the images of a batch
    the rest                    scaling the images, pooling, the loss, what Python does between operations

The profiler works too, at every operation, which weighs on what consists of many short ones: most of all on LeNet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from common import Row, half_ticket, row
from convolutional import cifar10
from lenet import mnist
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from lth_study import preset
from lth_study.data.parts import Dataset
from lth_study.networks import build
from lth_study.report import NETWORK_NAMES
from lth_study.settings import Setting
from lth_study.training.steps import PlainSteps
from lth_study.training.train import steady_arithmetic
from lth_study.training.updates import FlatNetwork

UPDATES = {"resnet20": 3, "vgg19": 3, "lenet_300_100": 200}
"""Network -> updates that are profiled in every round."""
DATA, OPTIMISER, REST = "data and augmentation", "optimiser and mask", "the rest"
GRADIENT, UPDATE = "gradient", "update"
OPERATIONS = {
    "convolutions and products": re.compile(r"conv|mm|linear", re.IGNORECASE),
    "batch norm": re.compile(r"batch_?norm", re.IGNORECASE),
    "ReLU and sums": re.compile(r"relu|threshold|sign|::add_?$|AddBackward", re.IGNORECASE),
}
"""Kind of work in forward and backward -> its operations; LeNet's backward pass takes the sign for ReLU's slope."""
KINDS = (*OPERATIONS, OPTIMISER, DATA, REST)


def rows(rounds: int) -> list[Row]:
    """The share of every kind of work in every network's training at the paper profile."""
    table = []
    for network, updates in UPDATES.items():
        setting = preset(network).setting
        images = mnist() if network == "lenet_300_100" else cifar10()
        samples = pd.DataFrame([shares(events(setting, images, updates)) for _ in range(rounds)])
        table += [row(f"{NETWORK_NAMES[network]}, share of {kind}", "share", samples[kind]) for kind in KINDS]
    return table


def events(setting: Setting, images: Dataset, updates: int) -> Sequence[FunctionEvent]:
    """What the profiler saw of the first updates of a training, after one that warmed up."""
    ticket = half_ticket(setting)
    network = FlatNetwork(build(setting), ticket.mask, setting)
    network.load(ticket.weights)
    network.model.train()
    network.loss = labelled(network.loss)
    if network.by_hand is not None:
        network.by_hand = labelled(network.by_hand)
    steps = PlainSteps(setting, network, images.train, replicate=1, order=0).epoch(0, 0)
    with steady_arithmetic():
        next(steps)()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(updates):
                with record_function(DATA):
                    update = next(steps)
                with record_function(UPDATE):
                    update()
    return profiled.events()


def shares(events: Sequence[FunctionEvent]) -> dict[str, float]:
    """The share of every kind of work; together they are 1."""
    spent = dict.fromkeys(KINDS, 0.0)
    for event in events:
        spent[kind_of(event)] += event.self_cpu_time_total
    return {kind: time / sum(spent.values()) for kind, time in spent.items()}


def labelled(gradient: Callable) -> Callable:
    """The same function, whose work the profiler sees under a name of its own."""

    def call(*arguments: Any) -> Any:
        with record_function(GRADIENT):
            return gradient(*arguments)

    return call


def kind_of(event: FunctionEvent) -> str:
    """The kind of work that an event is. In forward and backward its name tells, or that of the nearest that it is a
    part of; elsewhere where it happened."""
    if event.name == UPDATE:
        return REST
    named, part = None, event
    while part is not None:
        if part.name == DATA:
            return DATA
        named = named or next((kind for kind, names in OPERATIONS.items() if names.search(part.name)), None)
        if part.name == GRADIENT or part.name.startswith("autograd::engine"):
            return named or REST
        part = part.cpu_parent
    return OPTIMISER
