"""One update of a network under a mask: gradient, optimiser, average of the weights. `steps` and `train` use it.

All parameters live in one flat vector, all gradients in another. The mask multiplies the gradient once, and one call
of torch's fused kernel updates the weights. Torch's optimiser classes would lengthen that by half for LeNet.
A pruned weight stays exactly 0.0. With SGD and RMSProp its gradient, moments and decay are zero. With Adam its second
moment is infinite during training, so each of its steps is divided by infinity, and no mask is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lth_core.masks import Mask
from lth_study.ranks import average_, rank_and_count
from lth_study.settings import Setting

State = Mapping[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes images and labels, returns a scalar."""
MOMENTS = "optimizer."
"""The prefix of the optimiser's entries in a state."""
AVERAGE = f"{MOMENTS}average"
"""The entry of a state that holds the average: of the weights, then of batch norm's statistics. A fresh optimiser
restarts it, as it does the moments."""
UPDATES = f"{MOMENTS}updates"
"""The entry of a state that counts the updates since the optimiser was fresh. Adam's bias correction and the decay of
the average depend on it."""
RMSPROP_DECAY = 0.9
RMSPROP_EPSILON = 1.0
_MOMENTS = {
    "adam": {"exp_avg": 0.0, "exp_avg_sq": 0.0},
    "momentum": {"momentum_buffer": 0.0},
    "nesterov": {"momentum_buffer": 0.0},
    "rmsprop": {"square_avg": 1.0, "momentum_buffer": 0.0},
}
"""Optimiser -> its moments and their initial values."""


def learning_rate(setting: Setting, iteration: int) -> float:
    """The learning rate of an update.

    It rises linearly from 0 during warmup. Then it is constant between drops, each of which multiplies it by
    `drop_factor`. With `final_learning_rate` it is a straight line instead, from `learning_rate` at iteration 0 to
    `final_learning_rate` at the end. After the end it stays as it was last: fine-tuning goes on there.
    """
    iteration = min(iteration, setting.iterations - 1)
    if iteration < setting.warmup:
        return setting.learning_rate * iteration / setting.warmup
    if setting.final_learning_rate is not None:
        done = iteration / setting.iterations
        return setting.learning_rate + done * (setting.final_learning_rate - setting.learning_rate)
    return setting.learning_rate * setting.drop_factor ** sum(drop <= iteration for drop in setting.drops)


def products(setting: Setting, device: torch.device) -> torch.autocast:
    """A context in which a network computes its products in the precision of the setting."""
    return torch.autocast(device.type, torch.bfloat16, enabled=setting.precision == "bfloat16")


class FlatNetwork:
    """A network whose parameters are views of one flat vector, with its mask and its optimiser."""

    def __init__(self, model: nn.Module, mask: Mask, setting: Setting) -> None:
        self.model = model
        self.setting = setting
        parameters = dict(model.named_parameters())
        sizes = [parameter.numel() for parameter in parameters.values()]
        device = next(iter(parameters.values())).device
        statistics = _statistics(model) if setting.weight_average else []
        behind = [statistic.numel() for statistic in statistics]
        self.values = torch.zeros(sum(sizes) + sum(behind), device=device)
        self.weights, self.gradient = self.values[: sum(sizes)], torch.zeros(sum(sizes), device=device)
        for statistic, value in zip(statistics, self.values[sum(sizes) :].split(behind), strict=True):
            statistic.data = value.view_as(statistic)
        self.gradients = {}
        pieces = zip(self.weights.split(sizes), self.gradient.split(sizes), strict=True)
        self.mask = torch.ones(sum(sizes), device=device)
        keep = self.mask.split(sizes)
        for (name, parameter), (weight, gradient), kept in zip(parameters.items(), pieces, keep, strict=True):
            parameter.data = shaped(weight, parameter)
            self.gradients[name] = shaped(gradient, parameter)
            if name in mask:
                shaped(kept, parameter).copy_(mask[name])
        by_hand = getattr(model, "backward", None)
        self.by_hand = None if by_hand is None else by_hand(self.gradients)
        self._parameters, self._gradients = list(parameters.values()), list(self.gradients.values())
        self.moments = {name: torch.full_like(self.weights, at) for name, at in _MOMENTS[setting.optimizer].items()}
        self.average = torch.zeros_like(self.values) if setting.weight_average else None
        self.updates = torch.zeros((), device=device)
        self.decay_everywhere, self.decay_each = setting.weight_decay, None
        if setting.weight_decay_on == "convolutions":
            rates = [setting.weight_decay if parameter.dim() == 4 else 0.0 for parameter in parameters.values()]
            vectors = [torch.full((size,), rate, device=device) for size, rate in zip(sizes, rates, strict=True)]
            self.decay_everywhere, self.decay_each = 0.0, torch.cat(vectors)

    def load(self, state: State) -> None:
        """Load a state. Missing moments get their initial values; a missing average starts at the weights."""
        names = self.model.state_dict().keys()
        self.model.load_state_dict({name: state[name] for name in names})
        self.weights.mul_(self.mask)
        for name, moment in self.moments.items():
            key = f"{MOMENTS}{name}"
            moment.copy_(state[key]) if key in state else moment.fill_(_MOMENTS[self.setting.optimizer][name])
            moment.mul_(self.mask)
        if self.setting.optimizer == "adam":
            self.moments["exp_avg_sq"].masked_fill_(self.mask == 0, math.inf)
        if self.average is not None:
            self.average.copy_(state.get(AVERAGE, self.values))
            self.average[: len(self.mask)] *= self.mask
        self.updates.copy_(state.get(UPDATES, torch.zeros(())))

    def state(self) -> dict[str, Tensor]:
        """A copy of the whole state in the processor's memory. Later updates do not change it."""
        pruned = self.mask == 0
        moments = {f"{MOMENTS}{name}": moment.masked_fill(pruned, 0.0) for name, moment in self.moments.items()}
        if self.setting.optimizer == "adam" or self.average is not None:
            moments[UPDATES] = self.updates
        if self.average is not None:
            moments[AVERAGE] = self.average
        state = self.model.state_dict() | moments
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def update(self, images: Tensor, labels: Tensor, learning_rate: float | Tensor, loss: Loss | None = None) -> None:
        """One optimiser update on one batch, or on this process's share of it. `loss` may be `self.loss` compiled."""
        loss = loss or self.loss
        if self.by_hand is not None:
            self.by_hand(images, labels)
        else:
            pieces = math.ceil(self.setting.pieces / rank_and_count()[1])  # the batch is already split over processes
            if pieces == 1:
                torch._foreach_copy_(self._gradients, self._gradients_of(loss(images, labels)))
            else:
                self.gradient.zero_()
                for piece in zip(images.chunk(pieces), labels.chunk(pieces), strict=True):
                    share = loss(*piece) * (len(piece[1]) / len(labels))
                    torch._foreach_add_(self._gradients, self._gradients_of(share))
        average_(self.gradient)
        setting = self.setting
        if self.decay_each is not None:  # torch's kernels take one decay for the whole vector
            self.gradient.addcmul_(self.weights, self.decay_each)
        if setting.optimizer != "adam":
            self.gradient.mul_(self.mask)
        with torch.no_grad():
            if setting.optimizer == "adam":
                self.updates += 1
                torch._fused_adam_(
                    [self.weights], [self.gradient], [self.moments["exp_avg"]], [self.moments["exp_avg_sq"]], [],
                    [self.updates], lr=learning_rate, beta1=0.9, beta2=0.999, weight_decay=self.decay_everywhere,
                    eps=1e-8, amsgrad=False, maximize=False,
                )  # fmt: skip
            elif setting.optimizer == "rmsprop":
                self._rmsprop(learning_rate)
            else:
                velocity = [self.moments["momentum_buffer"]] if setting.momentum else []
                torch._fused_sgd_(
                    [self.weights], [self.gradient], velocity, weight_decay=self.decay_everywhere,
                    momentum=setting.momentum, lr=learning_rate, dampening=0.0,
                    nesterov=setting.optimizer == "nesterov", maximize=False, is_first_step=False,
                )  # fmt: skip
            if self.average is not None:
                self._take_average(setting.weight_average)

    def _gradients_of(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, self._parameters)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, plus `auxiliary_loss` times that of the auxiliary head, if the network has one."""
        smoothing = self.setting.label_smoothing
        with products(self.setting, images.device):
            outputs = self.model(images)
            if isinstance(outputs, Tensor):
                return F.cross_entropy(outputs, labels, label_smoothing=smoothing)
            own, auxiliary = (F.cross_entropy(logits, labels, label_smoothing=smoothing) for logits in outputs)
            return own + self.setting.auxiliary_loss * auxiliary

    def _rmsprop(self, learning_rate: float | Tensor) -> None:
        """RMSProp as in TensorFlow, with epsilon under the root; torch's RMSProp adds epsilon to the root.

        Inception-v3 is trained with an epsilon of 1.0, so the two differ much.
        """
        square, velocity = self.moments["square_avg"], self.moments["momentum_buffer"]
        self.gradient.add_(self.weights, alpha=self.decay_everywhere)
        square.mul_(RMSPROP_DECAY).addcmul_(self.gradient, self.gradient, value=1 - RMSPROP_DECAY)
        root = (square + RMSPROP_EPSILON).sqrt_()
        velocity.mul_(self.setting.momentum).add_(self.gradient.div_(root).mul_(learning_rate))
        self.weights.sub_(velocity)

    def _take_average(self, decay: float) -> None:
        """Update the average as TensorFlow does for Inception-v3, over batch norm's statistics too. After n updates the
        decay is at most (1 + n) / (10 + n), so the initial weights soon lose their influence."""
        assert self.average is not None
        if self.setting.optimizer != "adam":  # Adam has counted this update already
            self.updates += 1
        self.average.lerp_(self.values, 1 - ((1 + self.updates) / (10 + self.updates)).clamp(max=decay))

    def use_average(self) -> None:
        """For evaluation: replace the weights and batch norm's statistics by their average, if one is kept."""
        if self.average is not None:
            self.values.copy_(self.average)

    def is_finite(self) -> bool:
        return bool(torch.isfinite(self.weights).all())


def _statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances of all batch-norm layers."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]


def shaped(flat: Tensor, parameter: Tensor) -> Tensor:
    """A view of a flat vector in a parameter's shape. Filters are stored channels last, as images are."""
    if parameter.dim() != 4:
        return flat.view_as(parameter)
    filters, channels, height, width = parameter.shape
    return flat.view(filters, height, width, channels).permute(0, 3, 1, 2)


def flattened(tensor: Tensor) -> Tensor:
    """The flat vector that `shaped` gives a tensor of."""
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).flatten()
