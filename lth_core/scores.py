"""Scores for pruning at initialisation: SNIP, GraSP and SynFlow, for any network.

Each gives a mapping from the names of a mask's layers to scores. `prune_global` prunes the lowest of them:

    def loss(model):
        return cross_entropy(model(images), labels)  # of one batch of training data

    mask = Mask.ones(model)
    mask = prune_iteratively(lambda mask: snip(model, mask, loss), mask, density=0.1)

The weights are those that the model holds: W_0, or W_k for pruning early in training. Pruned weights count as 0.0, and
so do their scores. A weight that layers share has one score. The model is left as it was: scores are computed on copies
of its parameters and buffers. Functions are called with the bare network, without wrappers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lth_core.masks import Mask
from lth_core.pruning import prune_global
from lth_core.weights import bare

Loss = Callable[[nn.Module], Tensor]
"""The loss of a network on one batch, always the same one: a scalar that depends on its weights."""
Scores = dict[str, Tensor]


def snip(model: nn.Module, mask: Mask, loss: Loss) -> Scores:
    """SNIP: `abs(g * w)`, with g the gradient of the loss (arXiv 1810.02340, section 4). One shot prunes the smallest.

    The paper takes one batch of training data, and the loss of training. The network computes in the mode that the
    model is in, training or evaluation; in training, dropout draws from torch's global generator. Raises `ValueError`
    where `loss` returns no such loss, and where the model lacks a weight of the mask.
    """
    with _borrowed(model, mask) as (network, weights):
        gradients = _gradients(_checked(loss(network), "loss(model)"), weights)
        return {name: (gradients[name] * weight.detach()).abs() for name, weight in weights.items()}


def grasp(model: nn.Module, mask: Mask, loss: Loss) -> Scores:
    """GraSP: `w * (H g)`, with g and H the gradient and Hessian of the loss in the mask's weights (arXiv 2002.07376).

    To first order, pruning a weight changes the squared norm of g by `-2 w (H g)`. The paper scores `-w * (H g)`, and
    it prunes the largest (section 4, algorithm 1). The sign here is the other one, so that one shot prunes the
    smallest. Inverted scores, `-score`, prune first what GraSP would prune last.

    The paper takes one batch with ten examples of every class. Its code divides the logits by a temperature of 200
    before the cross-entropy. Mode and errors are those of `snip`.
    """
    with _borrowed(model, mask) as (network, weights):
        gradients = _gradients(_checked(loss(network), "loss(model)"), weights, create_graph=True)
        kept = {name: gradient.detach() * mask[name].to(gradient.device) for name, gradient in gradients.items()}
        products = _gradients(torch.stack([(gradients[name] * kept[name]).sum() for name in kept]).sum(), weights)
        return {name: products[name] * weight.detach() for name, weight in weights.items()}


def synflow(model: nn.Module, mask: Mask, example: Tensor) -> Scores:
    """SynFlow: `abs(w) * dR / d abs(w)`, with R the sum of outputs for an input of ones and weights `abs(w)`.

    The smallest are pruned, in 100 iterations of `prune_iteratively` (arXiv 2006.05467, section 5 and algorithm 1). It
    needs no data: only the shape and the device of `example`, a batch for the model, count. One input is enough.
    Biases have their absolute values too. The network computes in evaluation mode, with batch norm's running
    statistics, and in double precision, since R grows exponentially with depth.

    Raises `ValueError` where the model does not return a tensor, and where it lacks a weight of the mask.
    """
    with _borrowed(model, mask, linear=True) as (network, weights):
        outputs = network(torch.ones_like(example, dtype=torch.float64))
        flow = _checked(outputs.sum() if isinstance(outputs, Tensor) else outputs, "the model")
        gradients = _gradients(flow, weights)
        return {name: gradients[name] * weight.detach() for name, weight in weights.items()}


def prune_iteratively(
    score: Callable[[Mask], Mapping[str, Tensor]], mask: Mask, density: float, iterations: int = 1
) -> Mask:
    """Prune the lowest scores to a density, in iterations that each keep the same fraction of the survivors.

    `score(mask)` gives the scores under a mask; it is asked again in every iteration. From a full mask, the density
    after iteration i of n is density^(i/n) (arXiv 2006.05467, algorithm 1). The last mask keeps exactly
    round(density x size) weights; `density` is a fraction of all weights that the mask covers.

    Raises `ValueError` for a density outside [0, 1] or above the mask's own, and for fewer than one iteration.
    """
    first, last = mask.survivors, round(density * mask.size) if 0 <= density <= 1 else -1
    if not 0 <= last <= first:
        raise ValueError(
            f"cannot prune to a density of {density}; choose one from 0 to that of the mask, {mask.density:.4g}"
        )
    if iterations < 1:
        raise ValueError(f"cannot prune in {iterations} iterations; choose 1 (one shot) or more")
    for iteration in range(1, iterations + 1):
        count = round(first * (last / first) ** (iteration / iterations)) if first else 0
        if count < mask.survivors:
            mask = prune_global(score(mask), mask, 1 - count / mask.survivors)
    return mask


@contextmanager
def _borrowed(model: nn.Module, mask: Mask, linear: bool = False) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """The bare network on copies of its parameters and buffers, pruned by the mask, and the mask's weights in it.

    `linear` makes the copies double and the parameters positive, and sets the evaluation mode.
    """
    network = bare(model)
    weights = mask.fitting(network)
    weights = {name: weights[name] for name in mask}
    parameters = [(parameter, parameter.data, parameter.requires_grad) for parameter in network.parameters()]
    modules = [(module, module.training, dict(module._buffers)) for module in network.modules()]
    try:
        for parameter, data, _ in parameters:
            parameter.data = data.double().abs() if linear else data.clone()
        for module, training, buffers in modules:
            module.training = training and not linear
            for name, buffer in buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.double() if linear and buffer.is_floating_point() else buffer.clone()
        mask.apply_(network)
        for weight in weights.values():
            weight.requires_grad_()
        with torch.enable_grad():
            yield network, weights
    finally:
        for parameter, data, wanted in parameters:
            parameter.data = data
            parameter.requires_grad_(wanted)
        for module, training, buffers in modules:
            module.training = training
            module._buffers.update(buffers)


def _checked(value: object, origin: str) -> Tensor:
    """A number to differentiate. Raises `ValueError` where it is none."""
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{origin} returned {given}; expected a tensor that autograd computed of the model's weights")
    return value


def _gradients(value: Tensor, weights: Mapping[str, Tensor], create_graph: bool = False) -> dict[str, Tensor]:
    """The gradient of a value in each weight: zeros where the value does not depend on it."""
    found = torch.autograd.grad(value, list(weights.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(weights, found, strict=True))
