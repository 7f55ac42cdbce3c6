"""Pruned weights stay at +0.0 under every optimiser, as in a float64 loop that masks by hand after every step."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.optim import SGD, Adam, Optimizer

from lth_core import Mask, prunable

CLASSES = [
    kind
    for _, kind in sorted(vars(torch.optim).items())
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind not in (Optimizer, torch.optim.SparseAdam)
]
"""Every optimiser of this torch; `SparseAdam` takes sparse gradients alone."""
FLAGS: dict[str, Any] = {
    "weight_decay": 0.1,
    "momentum": 0.9,
    "amsgrad": True,
    "centered": True,
    "nesterov": True,
    "maximize": True,
    "decoupled_weight_decay": True,
    "foreach": True,
    "fused": True,
    "line_search_fn": "strong_wolfe",
}
NEEDED = {"nesterov": {"momentum": 0.9}}


def variants(kind: type[Optimizer]) -> list[dict[str, Any]]:
    """An optimiser's options: none, each flag that it has, and decay and momentum together."""
    has = inspect.signature(kind).parameters
    each = [{flag: value} | NEEDED.get(flag, {}) for flag, value in FLAGS.items() if flag in has]
    return [{}, *each, {flag: FLAGS[flag] for flag in ("weight_decay", "momentum", "amsgrad") if flag in has}]


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Matrices alone, as Muon takes nothing else."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def ticket(model: nn.Module) -> Mask:
    return Mask({name: torch.arange(w.numel()).view(w.shape) % 3 == 0 for name, w in prunable(model).items()})


def batch(model: nn.Module, step: int) -> Tensor:
    """The loss of a step's batch, which is the same for every model."""
    generator = torch.Generator().manual_seed(step)
    dtype = next(model.parameters()).dtype
    images, labels = torch.randn(8, 6, generator=generator).to(dtype), torch.randint(3, (8,), generator=generator)
    return F.cross_entropy(model(images), labels)


def update(model: nn.Module, optimizer: Any, step: int) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = batch(model, step)
        loss.backward()
        return loss

    optimizer.step(closure)


def mask_by_hand(model: nn.Module, mask: Mask) -> int:
    """Set every pruned weight to 0.0, one by one; returns how many of them were below 0."""
    below = 0
    for name, kept in mask.items():
        weight = model.get_parameter(name).data.view(-1)
        for place in range(weight.numel()):
            if not kept.view(-1)[place]:
                below += weight[place].item() < 0
                weight[place] = 0.0
    return below


def assert_positive_zeros(model: nn.Module, mask: Mask) -> None:
    for name, weight in mask.fitting(dict(model.named_parameters())).items():
        pruned = weight.detach()[~mask[name]].double()
        assert len(pruned) > 0
        assert (pruned == 0).all()
        assert not pruned.signbit().any()


@pytest.mark.filterwarnings("ignore:.*non-deterministic:UserWarning")
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_optimiser_ends_where_masking_by_hand_ends(kind: type[Optimizer]) -> None:
    for options in variants(kind):
        held, by_hand = network(), network()
        mask = ticket(held)
        ours, theirs = kind(held.parameters(), **options), kind(by_hand.parameters(), **options)
        mask.hold(held, ours)
        mask_by_hand(by_hand, mask)
        below = 0
        for step in range(6):
            update(held, ours, step)
            update(by_hand, theirs, step)
            below += mask_by_hand(by_hand, mask)
            assert_positive_zeros(held, mask)
        assert below > 0, options  # there was something to hold: a product with 0 would have made -0.0 of it
        for name, weight in held.named_parameters():
            assert torch.equal(weight, by_hand.get_parameter(name)), (name, options)


def test_the_table_has_every_usual_optimiser() -> None:
    assert {"SGD", "Adam", "AdamW", "LBFGS", "RMSprop"} <= {kind.__name__ for kind in CLASSES}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_survivors_move_as_they_would_until_they_are_let_go_in_every_type(dtype: torch.dtype) -> None:
    model = nn.Conv2d(4, 3, 3, bias=False).to(dtype, memory_format=torch.channels_last)
    mask = ticket(model)
    optimizer = SGD(model.parameters(), lr=1.0)
    hold = mask.hold(model, optimizer)
    assert_positive_zeros(model, mask)
    before, kept = model.weight.detach().clone(), mask["weight"]
    model.weight.data = model.weight.data.clone()  # it is held where it is
    model.weight.grad = torch.where(kept, 0.5, 2.0).to(model.weight)
    optimizer.step()
    assert_positive_zeros(model, mask)
    assert torch.equal(model.weight[kept], (before - 0.5)[kept])
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    hold.remove()
    optimizer.step()
    assert (model.weight[~kept] == -2).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_in_a_pruned_weight_is_named_once_and_becomes_zero(value: float) -> None:
    model = network(torch.float32)
    mask = ticket(model)
    optimizer = SGD(model.parameters(), lr=1.0)
    mask.hold(model, optimizer)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    for _ in range(8):
        optimizer.step()
    survivor = model[0].weight[0, 0].item()
    model[2].weight.grad[0, 1:3] = value
    optimizer.step()  # looked for at every tenth step, and 0.0 after each
    assert_positive_zeros(model, mask)
    with pytest.warns(RuntimeWarning, match=r"after step 10 .*\(2 of 2\.weight\)"):
        optimizer.step()
    for _ in range(11):  # said once: another warning would be an error
        assert_positive_zeros(model, mask)
        optimizer.step()
    assert model[0].weight[0, 0].item() == survivor


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0])
def test_a_surviving_weight_keeps_its_value_whatever_it_is(value: float) -> None:
    model = network(torch.float32)
    mask = ticket(model)
    optimizer = SGD(model.parameters(), lr=1.0)
    with torch.no_grad():
        model[0].weight[0, 0] = value
    mask.hold(model, optimizer)  # it looks at once for pruned weights that are not finite
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(model[0].weight[0, 0].view(torch.int32), torch.tensor(value).view(torch.int32))
    assert_positive_zeros(model, mask)


def test_a_step_that_the_scaler_skips_moves_nothing_and_the_next_is_held() -> None:
    model = network(torch.float32)
    mask = ticket(model)
    optimizer = Adam(model.parameters(), lr=0.1)
    mask.hold(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = copy.deepcopy(model.state_dict())
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(batch(model, step)).backward()
        if step == 0:
            model[0].weight.grad[0, 1] = math.inf
        scaler.step(optimizer)
        scaler.update()
        assert_positive_zeros(model, mask)
        moved = any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
        assert moved == (step > 0)


class WithoutHooks(Optimizer):
    """As Accelerate's wrapper: an `Optimizer` that never called its base's `__init__`."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, torch.compile])
def test_wrapped_models_and_optimisers_are_held(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = network()
    wrapped = wrap(model)
    mask = ticket(wrapped)
    optimizer = WithoutHooks(WithoutHooks(SGD(wrapped.parameters(), lr=0.1, momentum=0.9)))
    torch.optim.lr_scheduler.StepLR(optimizer.optimizer.optimizer, 1)  # it wraps `step`
    mask.hold(wrapped, optimizer)
    for step in range(3):
        update(model, optimizer, step)
        assert_positive_zeros(model, mask)


def test_shared_and_normed_weights_are_held() -> None:
    model = nn.Sequential(nn.Linear(3, 3), parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    mask = ticket(model)
    optimizer = SGD(model.parameters(), lr=0.1)
    mask.hold(model, optimizer)
    F.mse_loss(model(torch.ones(1, 3)), torch.zeros(1, 3)).backward()
    optimizer.step()
    assert torch.equal(model[2].weight != 0, mask["0.weight"])
    assert torch.equal(model[1].weight != 0, mask["1.parametrizations.weight.original1"])


def test_several_optimisers_hold_together_and_one_that_is_missing_is_said() -> None:
    model = network()
    mask = ticket(model)
    first, last = SGD(model[0].parameters(), lr=0.1), Adam(model[2].parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"'2\.weight' is in the mask, but no optimizer given has it"):
        mask.hold(model, first)
    with pytest.raises(ValueError, match=r"expected optimizers after the model, one by one, got list"):
        mask.hold(model, [first, last])
    mask.hold(model, first, last)
    batch(model, 0).backward()
    for optimizer in (first, last):
        optimizer.step()
        assert_positive_zeros(model, mask)
    model[2].weight.requires_grad_(False)
    mask.hold(model, first)  # nothing moves a frozen weight


def test_a_mask_that_does_not_fit_is_refused_before_any_weight_is_changed() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"'fc\.weight' is in the mask"):
        Mask({"0.weight": torch.zeros(5, 6), "fc.weight": torch.zeros(3, 5)}).hold(model, SGD(model.parameters()))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_lie_on_the_weights_device_and_follow_them() -> None:
    model = network(torch.float32)
    mask = ticket(model)
    optimizer = SGD(model.parameters(), lr=1.0)
    mask.hold(model, optimizer)
    model.cuda()
    for step in range(101):
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        if step == 99:
            model[0].weight.grad[0, 1] = math.nan
            with pytest.warns(RuntimeWarning, match=r"after step 100 .*\(1 of 0\.weight\)"):
                optimizer.step()
        else:
            optimizer.step()
    assert_positive_zeros(model.cpu(), mask)


@pytest.mark.filterwarnings("default")
def test_accelerate() -> None:
    """`test_own_network` has searches in Lightning and in Hugging Face's Trainer."""
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    images = torch.utils.data.TensorDataset(torch.randn(8, 6), torch.randint(3, (8,)))
    held, by_hand = network(torch.float32), network(torch.float32)
    mask, theirs = ticket(held), Adam(by_hand.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(images, 8)
    held, ours, loader = accelerator.prepare(held, Adam(held.parameters(), lr=0.1), loader)
    mask.hold(held, ours)
    mask_by_hand(by_hand, mask)
    for _ in range(4):
        for inputs, labels in loader:
            ours.zero_grad()
            accelerator.backward(F.cross_entropy(held(inputs), labels))
            ours.step()
            assert_positive_zeros(accelerator.unwrap_model(held), mask)
        theirs.zero_grad()
        F.cross_entropy(by_hand(images.tensors[0]), images.tensors[1]).backward()
        theirs.step()
        mask_by_hand(by_hand, mask)
    for name, weight in mask.fitting(accelerator.unwrap_model(held)).items():
        torch.testing.assert_close(weight, by_hand.get_parameter(name), rtol=1e-5, atol=1e-6)
