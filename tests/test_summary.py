"""What a mask leaves of a model, against counts made by hand and against products that are counted one by one."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence

from lth_core import Mask
from lth_study.networks.lenet import LeNet300100


def keep(model: nn.Module, share: float) -> Mask:
    """The mask that keeps this share of every weight, rounded down: its first entries."""
    ones = Mask.ones(model)
    return Mask(
        {
            name: (torch.arange(kept.numel()) < int(share * kept.numel())).view(kept.shape)
            for name, kept in ones.items()
        },
        shared=ones.shared,
    )


def multiply_adds(mask: Mask, model: nn.Module, example: object) -> dict[str, tuple[int | None, int | None]]:
    """The dense and the non-zero ones of every layer, and of the model as ''."""
    summary = mask.summary(model, example)
    parts = {layer.name: layer for layer in summary.layers} | {"": summary.model}
    return {name: (part.multiply_adds, part.nonzero_multiply_adds) for name, part in parts.items()}


@pytest.mark.parametrize(
    ("share", "kept", "sparse_bytes"),
    # 266,200 weights in layers of 235,200, 30,000 and 1,000 take 33,275 bytes of bits; 410 biases take 1,640 bytes.
    [(0.5, (117_600, 15_000, 500), 567_315), (0.01, (2_352, 300, 10), 45_563)],
)
def test_lenet(share: float, kept: tuple[int, ...], sparse_bytes: int) -> None:
    model = LeNet300100()
    summary = keep(model, share).summary(model, torch.randn(1, 784))
    assert [layer.name for layer in summary.layers] == ["fc1.weight", "fc2.weight", "output.weight"]
    assert [layer.parameters for layer in summary.layers] == [235_200, 30_000, 1_000]
    assert tuple(layer.nonzero for layer in summary.layers) == kept
    assert (summary.masked.parameters, summary.masked.nonzero) == (266_200, sum(kept))
    assert (summary.model.parameters, summary.model.nonzero) == (266_610, sum(kept) + 410)
    assert summary.masked.density == share
    assert summary.model.density == (sum(kept) + 410) / 266_610
    assert (summary.model.multiply_adds, summary.model.nonzero_multiply_adds) == (266_200, sum(kept))
    assert (summary.dense_bytes, summary.sparse_bytes) == (1_066_440, sparse_bytes)


def test_multiply_adds_are_for_the_whole_batch_and_need_an_example() -> None:
    model = LeNet300100()
    mask = keep(model, 0.1)
    assert multiply_adds(mask, model, torch.randn(7, 784))[""] == (7 * 266_200, 7 * 26_620)
    without = mask.summary(model)
    assert {part.multiply_adds for part in (*without.layers, without.masked, without.model)} == {None}
    assert "multiply-adds" not in str(without)
    nothing = Mask({}).summary(model, torch.randn(7, 784))
    assert nothing.masked == ("masked weights", 0, 0, 0, 0)
    assert nothing.model[3:] == (7 * 266_200,) * 2
    assert "<pre>" in nothing._repr_html_()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 7, bias=False), (4, 5)),
        (nn.Conv1d(4, 6, 3, dilation=2, groups=2, bias=False), (2, 4, 11)),
        (nn.Conv2d(3, 5, (2, 3), stride=(1, 2), bias=False), (2, 3, 7, 9)),
        (nn.Conv3d(2, 3, 2, bias=False), (1, 2, 4, 5, 3)),
        (nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False), (2, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), (1, 4, 5, 5)),
        (nn.ConvTranspose3d(2, 3, 2, stride=2, bias=False), (1, 2, 3, 2, 2)),
        (nn.Linear(3, 5, bias=False), (2, 7, 3)),
        (nn.Linear(3, 5, bias=False), (3,)),
    ],
)
def test_as_many_as_there_are_products_with_a_one(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mask = Mask({"weight": torch.rand_like(layer.weight) < 0.3})
    ones = torch.ones(shape, dtype=torch.float64)

    def products(weight: Tensor) -> int:  # every product adds its 1 to some output
        counting = copy.deepcopy(layer).double()
        counting.weight.data.copy_(weight)
        return int(counting(ones).sum())

    expected = products(torch.ones_like(layer.weight)), products(mask["weight"])
    assert multiply_adds(mask, layer, ones.float())["weight"] == expected


@pytest.mark.parametrize(
    ("kind", "gates", "dtype"), [(nn.LSTM, 4, torch.float32), (nn.GRU, 3, torch.bfloat16), (nn.RNN, 1, torch.float64)]
)
def test_recurrent_layers(kind: type[nn.RNNBase], gates: int, dtype: torch.dtype) -> None:
    model = kind(6, 8, num_layers=2, bidirectional=True).to(dtype)
    steps = 3 * 2  # of a batch of two
    sizes = {
        f"weight_{which}_l{layer}{direction}": gates * 8 * inputs
        for layer, inputs_ih in enumerate([6, 16])
        for direction in ("", "_reverse")
        for which, inputs in (("ih", inputs_ih), ("hh", 8))
    }
    expected = {name: (steps * size, steps * size // 4) for name, size in sizes.items()}
    expected[""] = (steps * sum(sizes.values()), steps * sum(sizes.values()) // 4)
    inputs, state = torch.randn(3, 2, 6, dtype=dtype), torch.zeros(4, 2, 8, dtype=dtype)
    for example in (inputs, (inputs, (state, state) if kind is nn.LSTM else state)):
        assert multiply_adds(keep(model, 0.25), model, example) == expected


def test_steps_of_padding_in_a_packed_sequence_do_not_count() -> None:
    model = nn.LSTM(5, 7)
    packed = pack_padded_sequence(torch.randn(4, 2, 5), [4, 1])
    assert multiply_adds(Mask.ones(model), model, packed)[""] == (5 * 4 * 7 * 12,) * 2


@torch.no_grad()
def test_attention_in_evaluation_and_in_a_transformers_fast_path() -> None:
    model, tokens = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(3, 5, 8)
    scores = 2 * 3 * 2 * 5 * 5 * 4  # queries with keys, and with values: 3 sequences, 2 heads of width 4
    for need_weights in (True, False):
        example = {"query": tokens, "key": tokens, "value": tokens, "need_weights": need_weights}
        assert multiply_adds(keep(model, 0.25), model, example) == {
            "in_proj_weight": (15 * 192, 15 * 48),
            "out_proj.weight": (15 * 64, 15 * 16),
            "": (15 * 256 + scores, 15 * 64 + scores),
        }
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    assert multiply_adds(Mask.ones(encoder), encoder, tokens)[""] == (2 * (15 * 512 + scores),) * 2
    assert torch.backends.mha.get_fastpath_enabled()


class Twice(nn.Module):
    """Two layers of one weight. The first is used twice, and there is one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.first(x)))


def test_a_shared_weight_is_stored_once_and_every_use_counts() -> None:
    model = Twice()
    mask = keep(model, 0.5)
    assert multiply_adds(mask, model, torch.randn(2, 6)) == {
        "first.weight": (3 * 2 * 36, 3 * 2 * 18),
        "unused.weight": (0, 0),
        "": (3 * 2 * 36, 3 * 2 * 18),
    }
    summary = mask.summary(model, torch.randn(2, 6))
    assert (summary.model.parameters, summary.model.nonzero) == (2 * 36 + 3 * 6, 2 * 18 + 3 * 6)
    assert (summary.dense_bytes, summary.sparse_bytes) == (4 * 90, 4 * 54 + 2 * 5)
    assert "no multiply-adds counted: unused.weight" in str(summary)


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    ("norm", "name", "others"),
    [
        (parametrizations.weight_norm, "parametrizations.weight.original1", 4),
        (old_weight_norm, "weight_v", 4),
        (parametrizations.spectral_norm, "parametrizations.weight.original", 0),
        (lambda layer: prune.random_unstructured(layer, "weight", 0.5), "weight_orig", 0),
    ],
)
def test_what_is_made_of_a_stored_weight_counts_for_it(norm: Callable, name: str, others: int) -> None:
    model = norm(nn.Conv1d(2, 4, 3))
    mask = keep(model, 0.5)
    counts = (3 * 6 * 24, 3 * 6 * 12)
    assert multiply_adds(mask, model, torch.randn(3, 2, 8)) == {name: counts, "": counts}
    assert mask.summary(model).model.parameters == 24 + 4 + others


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("one_buffer", [False, True])  # as a GPU's recurrent layers and sharded models keep weights
def test_weights_are_told_apart_in_one_buffer_and_when_they_are_cast(autocast: bool, one_buffer: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    if one_buffer:
        buffer = torch.randn(32)
        model[0].weight, model[1].weight = nn.Parameter(buffer[:24].view(4, 6)), nn.Parameter(buffer[24:].view(2, 4))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        counts = multiply_adds(keep(model, 0.5), model, torch.randn(5, 6))
    assert counts == {"0.weight": (120, 60), "1.weight": (40, 20), "": (160, 80)}


class Product(nn.Module):
    """A product of 5 x 6 with 6 x 4 numbers, of its parameters and of data."""

    def __init__(self, product: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(6, 4))
        self.unmasked, self.product = nn.Parameter(torch.randn(6, 4)), product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self, x)


@pytest.mark.parametrize(
    ("product", "first", "second"),
    [
        (lambda model, x: torch.addmm(torch.zeros(5, 4), F.relu(model.first), x), 120, 0),
        (lambda model, x: model.first @ model.second, 0, 120),  # once, for the last
        (lambda model, x: model.first @ (model.second * x), 120, 0),  # what is made with data is data
        (lambda model, x: model.first @ (model.unmasked * 2), 120, 0),
        (lambda model, x: torch.ones(5, 6) @ x, 0, 0),
    ],
)
def test_a_product_counts_for_one_masked_weight_in_it(product: Callable, first: int, second: int) -> None:
    model = Product(product)
    mask = Mask({"first": torch.arange(30).view(5, 6) < 15, "second": torch.ones(6, 4)})
    summary = mask.summary(model, torch.randn(6, 4))
    assert [layer[3:] for layer in summary.layers] == [(first, first // 2), (second, second)]
    assert summary.model[3:] == (120, 120 - first // 2)
    unseen = [name for name, count in (("first", first), ("second", second)) if not count]
    assert f"no multiply-adds counted: {', '.join(unseen)};" in str(summary)


class OnAGraph(nn.Module):
    """A linear layer whose outputs are added up along the edges of a graph of three nodes, a sparse buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.register_buffer("edges", torch.eye(3).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.edges, self.linear(x))


def test_a_sparse_buffer_is_no_obstacle() -> None:
    counts = multiply_adds(keep(OnAGraph(), 0.5), OnAGraph(), torch.randn(3, 6))
    assert counts["linear.weight"] == (3 * 24, 3 * 12)


def test_resnet18_in_wrappers() -> None:
    model = pytest.importorskip("torchvision.models").resnet18()
    half = keep(model, 0.5)
    summary = half.summary(nn.DataParallel(torch.compile(model)), torch.randn(1, 3, 224, 224))
    assert (summary.model.parameters, summary.masked.parameters) == (11_689_512, 11_678_912)
    assert summary.model.nonzero == 10_600 + 11_678_912 // 2
    assert (summary.model.multiply_adds, summary.model.nonzero_multiply_adds) == (1_814_073_344, 907_036_672)
    # of batch norm: mean and variance of 4,800 channels, and 20 counters of 8 bytes
    assert summary.dense_bytes == 4 * (11_689_512 + 9_600) + 160
    bits = sum((mask.numel() + 7) // 8 for mask in half.values())
    assert summary.sparse_bytes == summary.dense_bytes - 4 * 11_678_912 // 2 + bits


def test_the_model_stays_as_it_was_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 2))
    model = model.to(torch.bfloat16, memory_format=torch.channels_last)
    model[1].eval()
    calls = []
    model.register_forward_hook(lambda module, inputs, output: calls.append((output, module.training)))
    before = copy.deepcopy(model.state_dict())
    example = torch.randn(1, 3, 6, 6, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    generator = torch.get_rng_state()
    summary = keep(model, 0.5).summary(model, example)
    assert (summary.model.multiply_adds, summary.model.nonzero_multiply_adds) == (16 * 108 + 128, 16 * 54 + 64)
    assert summary.dense_bytes == 2 * (108 + 4 + 4 * 4 + 128 + 2) + 8
    ((output, training),) = calls
    assert not training
    assert not output.requires_grad
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == [1] + [0] * 5
    assert capsys.readouterr().out == ""


def test_all_is_restored_when_the_example_does_not_fit() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Mask.ones(model).summary(model, torch.randn(5, 7))
    assert model.training
    assert all(module.training for module in model)
    assert torch.backends.mkldnn.enabled
    assert torch.backends.mha.get_fastpath_enabled()
    assert model(torch.randn(5, 6)).requires_grad
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_it_prints_as_a_table() -> None:
    model = nn.Sequential(nn.Linear(60, 40), nn.Linear(40, 5))
    mask = Mask({"0.weight": torch.arange(2400).view(40, 60) < 1200, "1.weight": torch.arange(200).view(5, 40) < 1})
    assert str(mask.summary(model, torch.randn(1, 60))).splitlines() == [
        "                 dense  non-zero  density  multiply-adds  non-zero",
        "0.weight         2,400     1,200      50%          2,400     1,200",
        "1.weight           200         1     0.5%            200         1",
        "masked weights   2,600     1,201    46.2%          2,600     1,201",
        "parameters       2,645     1,246    47.1%          2,600     1,201",
        "bytes on disk   10,580     5,309    50.2%",
    ]
    assert str(mask.summary(model)).splitlines()[1] == "0.weight         2,400     1,200      50%"


def test_a_notebook_draws_the_density_of_every_layer() -> None:
    model = nn.ModuleDict({'<b>&"': nn.Linear(6, 4), "plain": nn.Linear(8, 4)})
    names = ['<b>&".weight', "plain.weight"]
    mask = Mask({names[0]: torch.arange(24).view(4, 6) < 6, names[1]: torch.zeros(4, 8, dtype=torch.bool)})
    html = mask.summary(model)._repr_html_()
    page = ElementTree.fromstring(f"<div>{html}</div>")  # which a name that is not escaped would break
    svg = "{http://www.w3.org/2000/svg}"
    assert "masked weights     56         6    10.7%" in (page.findtext("pre") or "")
    drawing = page.find(f"{svg}svg")
    assert drawing is not None
    assert (drawing.get("role"), drawing.get("fill")) == ("img", "currentColor")
    assert drawing.get("aria-label") == f"Density by layer: {names[0]} 25%, {names[1]} 0%"
    assert [*drawing.itertext()] == [f"{names[0]}: 6 of 24", names[0], "25%", f"{names[1]}: 0 of 32", names[1], "0%"]
    bars = drawing.findall(f"{svg}g")
    widths = [[float(rect.get("width", "")) for rect in bar.findall(f"{svg}rect")] for bar in bars]
    assert [filled / whole for whole, filled in widths] == [0.25, 0]
    _, _, width, height = map(float, drawing.get("viewBox", "").split())
    for row, bar in enumerate(bars):  # a letter of 13 pixels is 7.8 wide
        x, y = map(float, re.findall(r"[\d.]+", bar.get("transform", "")))
        assert 7.8 * max(map(len, names)) <= x < width - widths[row][0] - 4 * 7.8
        assert 20 * row <= y <= height - 20
    assert "href" not in html
    assert "url(" not in html
