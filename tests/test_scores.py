"""Scores at initialisation, against gradients and Hessians by hand and autograd's full Hessian, in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lth_core import Mask, grasp, prune_iteratively, snip, synflow

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def linear(*weights: Any) -> nn.Sequential:
    """Linear layers without biases, of these weights, in double precision."""
    layers = []
    for values in weights:
        weight = torch.tensor(values, dtype=torch.float64)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        layer.weight.data = weight
        layers.append(layer)
    return nn.Sequential(*layers)


def convolutional() -> nn.Sequential:
    """Convolutions, batch norm with statistics and shifts of its own, dropout, biases."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 3),
    ).double()  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def cross_entropy(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(IMAGES), LABELS)


def half(model: nn.Module) -> Mask:
    """A mask that keeps half of the weights, spread over all layers."""
    generator = torch.Generator().manual_seed(5)
    return Mask({name: torch.rand(kept.shape, generator=generator) < 0.5 for name, kept in Mask.ones(model).items()})


def hessian_scores(model: nn.Module, mask: Mask, loss: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    """w * (H g), with the whole Hessian over the surviving weights; g and H of a functional copy of the network."""
    fixed = {name: value.detach().clone() for name, value in copy.deepcopy(model).state_dict().items()}
    mask.apply_(fixed)
    sizes = [mask[name].numel() for name in mask]
    kept = torch.cat([mask[name].flatten() for name in mask]).double()
    start = torch.cat([fixed[name].flatten() for name in mask])

    def of(flat: Tensor) -> Tensor:
        pieces = zip(mask, flat.split(sizes), strict=True)
        weights = {name: piece.view(mask[name].shape) for name, piece in pieces}

        class Functional(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                return functional_call(model, {**fixed, **weights}, (inputs,))

        return loss(Functional())

    gradient = torch.autograd.functional.jacobian(of, start)
    hessian = torch.autograd.functional.hessian(of, start)
    scores = start * (hessian @ (kept * gradient))
    return {name: piece.view(mask[name].shape) for name, piece in zip(mask, scores.split(sizes), strict=True)}


def close(found: dict[str, Tensor], expected: dict[str, Any]) -> bool:
    return list(found) == list(expected) and all(
        torch.allclose(found[name], torch.as_tensor(expected[name], dtype=found[name].dtype), rtol=1e-10, atol=1e-14)
        for name in expected
    )


# SNIP


def test_snip_is_the_size_of_gradient_times_weight_of_the_pruned_network_by_hand():
    """L = (w . x)^2 / 2, so g = (w . x) x. With w = (1, -2, 3) and x = (3, 1, -1), w . x is -2, without w_3 it is 1."""
    inputs = torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64)
    model = linear([[1.0, -2.0, 3.0]])
    for kept, expected in (([True, True, True], [6.0, 4.0, 6.0]), ([True, True, False], [3.0, 2.0, 0.0])):
        mask = Mask({"0.weight": torch.tensor([kept])})
        scores = snip(model, mask, lambda network: network(inputs).square().sum() / 2)
        assert close(scores, {"0.weight": [expected]})


# GraSP


@pytest.mark.parametrize(("choose", "training"), [(Mask.ones, False), (half, True)], ids=["dense", "pruned"])
def test_grasp_agrees_with_the_whole_hessian(choose: Callable[[nn.Module], Mask], training: bool):
    model = convolutional().train(training)
    model[8].p = 0.0
    mask = choose(model)
    assert close(grasp(model, mask, cross_entropy), hessian_scores(model, mask, cross_entropy))


# SynFlow


def test_synflow_sees_neither_the_batch_nor_dropout_and_takes_biases_and_scales_by_size():
    """Batch norm in evaluation mode is a factor and a shift, known beforehand."""
    model = convolutional()
    positive = copy.deepcopy(model).eval()
    for parameter in positive.parameters():
        parameter.data.abs_()
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    names = list(Mask.ones(model))
    gradients = torch.autograd.grad(positive(ones).sum(), [positive.get_parameter(name) for name in names])
    expected = {name: g * positive.get_parameter(name).detach() for name, g in zip(names, gradients, strict=True)}
    assert close(synflow(model.train(), Mask.ones(model), torch.full((1, 1, 8, 8), 7.0)), expected)


def test_synflow_does_not_overflow_in_a_deep_float32_network():
    """Each layer multiplies by 1,000: 1e60 at the end, more than float32 holds."""
    model = nn.Sequential(*[nn.Linear(10, 10, bias=False) for _ in range(20)])
    for layer in model:
        nn.init.constant_(layer.weight, -100.0)
    scores = synflow(model, Mask.ones(model), torch.ones(1, 10))
    for score in scores.values():
        assert torch.allclose(score, torch.full((10, 10), 1e61 / 100, dtype=torch.float64))


# All of them


SCORES: dict[str, Callable[[nn.Module, Mask], dict[str, Tensor]]] = {
    "snip": lambda model, mask: snip(model, mask, cross_entropy),
    "grasp": lambda model, mask: grasp(model, mask, cross_entropy),
    "synflow": lambda model, mask: synflow(model, mask, IMAGES[:1]),
}
each_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)


@each_score
@pytest.mark.parametrize("failing", [False, True])
def test_the_model_is_left_as_it_was(score: Callable[[nn.Module, Mask], dict[str, Tensor]], failing: bool):
    model = convolutional().train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    model[9].weight.requires_grad_(False)
    F.cross_entropy(model(IMAGES), LABELS).backward()
    tensors = dict(model.state_dict(keep_vars=True))
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    memory = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    gradients = {name: copy.deepcopy(p.grad) for name, p in model.named_parameters()}
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    mask = half(model)
    if failing:
        model[4].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(model, mask)
    else:
        assert set(score(model, mask)) == set(mask)
    after = dict(model.state_dict(keep_vars=True))
    assert all(after[name] is tensor for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter))
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == before[name].dtype for name in before)
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == memory
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
    assert [module.training for module in model.modules()] == modes
    for name, p in model.named_parameters():
        assert (p.grad is None) == (gradients[name] is None)
        assert p.grad is None or torch.equal(p.grad, gradients[name])


@each_score
def test_scores_belong_to_the_masks_layers_and_are_those_of_the_pruned_network(
    score: Callable[[nn.Module, Mask], dict[str, Tensor]],
):
    model = convolutional()
    model[8].p = 0.0
    mask = half(model)
    scores = score(model, mask)
    assert list(scores) == ["0.weight", "3.weight", "9.weight"]
    assert all(scores[name].dtype == torch.float64 and not scores[name].requires_grad for name in scores)
    assert all(bool((scores[name][~mask[name]] == 0).all()) for name in mask)
    pruned = copy.deepcopy(model)
    mask.apply_(pruned)
    assert close(score(pruned, mask), scores)
    few = Mask({"3.weight": mask["3.weight"]})
    assert list(score(model, few)) == ["3.weight"]


@each_score
def test_wrappers_change_neither_names_nor_scores(score: Callable[[nn.Module, Mask], dict[str, Tensor]]):
    model = convolutional()
    model[8].p = 0.0
    mask = half(model)
    for wrapped in (nn.DataParallel(copy.deepcopy(model)), torch.compile(copy.deepcopy(model))):
        assert close(score(wrapped, mask), score(model, mask))


class Shared(nn.Module):
    """One weight in two layers, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = (nn.Linear(2, 2, bias=False, dtype=torch.float64) for _ in range(3))
        self.second.weight = self.first.weight
        self.first.weight.data = torch.tensor([[1.0, -2.0], [3.0, 1.0]], dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(self.first(inputs))
        return outputs


def test_a_weight_that_layers_share_counts_once_with_the_paths_through_both():
    """R = 1^T A A 1 with A = ((1, 2), (3, 1)): dR/dA_ij = (A^T 1)_i + (A 1)_j, with A^T 1 = (4, 3) and A 1 = (3, 4)."""
    model = Shared()
    mask = Mask.ones(model)
    assert list(mask) == ["first.weight", "idle.weight"]
    scores = synflow(model, mask, torch.ones(1, 2))
    assert close(scores, {"first.weight": [[7.0, 16.0], [18.0, 7.0]], "idle.weight": [[0.0, 0.0], [0.0, 0.0]]})
    one = torch.ones(2, dtype=torch.float64)
    linear_loss = snip(model, mask, lambda network: network(one).sum())
    # B = ((1, -2), (3, 1)): B^T 1 = (4, -1), B 1 = (-1, 4); |B_ij ((B^T 1)_i + (B 1)_j)|
    assert close(linear_loss, {"first.weight": [[3.0, 16.0], [6.0, 3.0]], "idle.weight": [[0.0, 0.0], [0.0, 0.0]]})
    pruned = Mask({"first.weight": torch.tensor([[True, False], [True, True]])}, shared=mask.shared)
    # A = ((1, 0), (3, 1)): A^T 1 = (4, 1), A 1 = (1, 4)
    assert close(synflow(model, pruned, torch.ones(1, 2)), {"first.weight": [[5.0, 0.0], [6.0, 5.0]]})


class Named(nn.Linear):
    def forward(self, inputs: Tensor) -> Any:
        return {"logits": super().forward(inputs)}


@pytest.mark.parametrize(
    ("score", "given_in", "message"),
    [
        (snip, lambda _: 3.0, r"loss\(model\) returned float; expected a tensor"),
        (grasp, lambda _: 3.0, r"loss\(model\) returned float; expected a tensor"),
        (snip, lambda model: model(IMAGES[0, 0])["logits"], r"loss\(model\) returned a tensor of shape \(8, 2\)"),
        (snip, lambda model: model.weight.sum().detach(), r"returned a tensor of shape \(\); .* autograd"),
        (synflow, torch.ones(1, 8), "the model returned dict; expected a tensor"),
    ],
)
def test_what_is_no_loss_is_refused(score: Any, given_in: Any, message: str):
    model = Named(8, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        score(model, Mask.ones(model), given_in)


# Pruning in iterations


def test_iterations_keep_the_same_fraction_each_and_ask_for_scores_under_the_mask():
    """1,000 weights to 10% in three iterations: 1000 x 0.1^(1/3) = 464.2, 1000 x 0.1^(2/3) = 215.4, 100."""
    seen: list[Mask] = []

    def score(mask: Mask) -> dict[str, Tensor]:
        seen.append(mask)
        return {"w": torch.arange(1000.0)}

    pruned = prune_iteratively(score, Mask({"w": torch.ones(1000)}), 0.1, 3)
    assert [mask.survivors for mask in (*seen, pruned)] == [1000, 464, 215, 100]
    assert pruned["w"].tolist() == [False] * 900 + [True] * 100


@given(st.floats(0, 1), st.integers(1, 100))
@example(1.0, 1)
def test_the_count_at_the_end_is_exact(density: float, iterations: int):
    scores = {"w": torch.arange(97.0) % 31, "v": torch.arange(14.0)}
    pruned = prune_iteratively(lambda _: scores, Mask.ones(scores), density, iterations)
    assert pruned.survivors == round(density * 111)
    again = prune_iteratively(lambda _: scores, pruned, density / 2, iterations)
    assert again.survivors == round(density / 2 * 111)
    assert all(bool((pruned[name] | ~again[name]).all()) for name in again)


def test_synflow_in_a_hundred_iterations_never_empties_a_layer_that_one_shot_empties():
    """The paper's point: a layer of many weights has small scores, and one shot prunes it first (section 5)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 60, bias=False), nn.Linear(60, 60, bias=False), nn.Linear(60, 2, bias=False))
    mask = Mask.ones(model)

    def kept(iterations: int) -> list[int]:
        pruned = prune_iteratively(lambda mask: synflow(model, mask, torch.ones(1, 4)), mask, 0.005, iterations)
        return [int(pruned[name].sum()) for name in pruned]

    assert min(kept(1)) == 0
    assert min(kept(100)) > 0
    assert sum(kept(100)) == round(0.005 * 3960)


@pytest.mark.parametrize(
    ("density", "iterations", "message"),
    [
        (-0.1, 1, "density of -0.1; choose one from 0 to"),
        (1.1, 1, "density of 1.1"),
        (float("nan"), 1, "density of nan"),
        (0.75, 1, "density of 0.75; .* the mask, 0.5"),
        (0.1, 0, "in 0 iterations; choose 1"),
    ],
)
def test_a_density_or_a_number_of_iterations_that_cannot_be_is_refused(density: float, iterations: int, message: str):
    mask = Mask({"w": torch.tensor([True, False, True, False])})
    with pytest.raises(ValueError, match=message):
        prune_iteratively(lambda _: {"w": torch.zeros(4)}, mask, density, iterations)
