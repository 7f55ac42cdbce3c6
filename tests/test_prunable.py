"""Which weights of real models are pruned, against lists and counts made by hand; wrappers change no name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from lth_core import (
    Mask,
    angle,
    error_barrier,
    iterative_magnitude_pruning,
    l2_distance,
    load_mask,
    magnitude,
    prunable,
    prune_global,
    prune_layerwise,
    prune_lowest,
    shuffle_within_layers,
    subnetwork,
)


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    """A process group of this process alone, for `DistributedDataParallel`."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled_and_distributed(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(torch.compile(model))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bare": lambda model: model,
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "compiled": torch.compile,
    "compiled in DistributedDataParallel": compiled_and_distributed,
}


def from_torchvision(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model: nn.Module = getattr(models, name)()
    return model


VIT = [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
VIT_LAYER = ["self_attention.in_proj_weight", "self_attention.out_proj.weight", "mlp.0.weight", "mlp.3.weight"]
# Stages of Swin-T, and the layers between them that merge patches.
SWIN = [(1, 2, 96), (3, 2, 192), (5, 6, 384), (7, 2, 768)]
SWIN_BLOCK = ["attn.qkv.weight", "attn.proj.weight", "mlp.0.weight", "mlp.3.weight"]
SWIN_NAMES = [
    f"features.{stage}.{block}.{name}" for stage, blocks, _ in SWIN for block in range(blocks) for name in SWIN_BLOCK
]
REAL: dict[str, tuple[list[str], int]] = {
    "vit_b_16": (
        ["conv_proj.weight", *(f"{layer}.{name}" for layer in VIT for name in VIT_LAYER), "heads.head.weight"],
        768 * 3 * 16 * 16 + 12 * (4 + 8) * 768**2 + 768 * 1000,
    ),
    "swin_t": (
        ["features.0.0.weight", *SWIN_NAMES, *(f"features.{i}.reduction.weight" for i in (2, 4, 6)), "head.weight"],
        96 * 3 * 4 * 4
        + sum(blocks * (4 + 8) * width**2 for _, blocks, width in SWIN)
        + sum(8 * width**2 for _, _, width in SWIN[:3])
        + 768 * 1000,
    ),
}


class Conv1D(nn.Module):
    """GPT-2's linear layer: its weight has inputs first."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = Conv1D(3 * width, width), Conv1D(width, width)


class Gpt2(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, width), nn.Embedding(7, width)
        self.h = nn.ModuleList([Block(width), Block(width)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 11, bias=False)
        self.lm_head.weight = self.wte.weight


@pytest.mark.parametrize("name", REAL)
def test_networks_of_torchvision(name: str) -> None:
    names, count = REAL[name]
    mask = Mask.ones(from_torchvision(name))
    assert sorted(mask) == sorted(names)
    assert mask.size == mask.survivors == count


def test_recurrent_layers_and_attention_with_separate_projections() -> None:
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(50, 3),
            "lstm": nn.LSTM(3, 4, num_layers=2, bidirectional=True),
            "attention": nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
        }
    )
    inputs = {"ih_l0": 3, "hh_l0": 4, "ih_l1": 8, "hh_l1": 4}
    recurrent = {f"lstm.weight_{of}{way}": (16, size) for of, size in inputs.items() for way in ("", "_reverse")}
    projections = {"q_proj_weight": (4, 4), "k_proj_weight": (4, 3), "v_proj_weight": (4, 5), "out_proj.weight": (4, 4)}
    expected = recurrent | {f"attention.{name}": shape for name, shape in projections.items()}
    assert {name: tuple(tensor.shape) for name, tensor in Mask.ones(model).items()} == expected


def test_an_output_layer_that_an_embedding_shares_is_left_out_and_that_is_said() -> None:
    model = Gpt2()
    linear = {f"h.{block}.{layer}.weight" for block in (0, 1) for layer in ("c_attn", "c_proj")}
    with pytest.warns(UserWarning, match=r"wte\.weight is left out of the mask: an embedding shares it with lm_head"):
        weights = prunable(model)
    assert set(weights) == linear
    assert weights.left_out["wte.weight"] == "an embedding shares it with lm_head.weight"
    assert set(prunable(model, exclude="lm_head")) == linear  # and no warning, which would be an error
    both = prunable(model, include="lm_head.weight")
    assert set(both) == linear | {"wte.weight"}
    assert both.shared == {"lm_head.weight": "wte.weight"}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "normed",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: parametrizations.spectral_norm(parametrizations.weight_norm(layer)),
        lambda layer: prune.identity(layer, "weight"),
    ],
    ids=["weight_norm", "spectral_norm", "parametrized weight", "parametrized spectral", "both", "torch's pruning"],
)
@pytest.mark.parametrize("layer", [lambda: nn.Linear(6, 5), lambda: nn.Conv2d(2, 5, 3)], ids=["linear", "convolution"])
def test_what_is_pruned_under_a_norm_makes_zeros_of_the_weight(normed, layer) -> None:
    model = nn.Sequential(normed(layer()))
    ones = Mask.ones(model)
    assert ones.size == math.prod(model[0].weight.shape)  # one entry of the weight's shape, and no scales
    (name,) = ones
    kept = torch.arange(ones.size).view(ones[name].shape) % 3 != 0
    Mask({name: kept}).apply_(model)
    for hook in model[0]._forward_pre_hooks.values():  # older norms compute the weight before a forward pass
        hook(model[0], None)
    assert torch.equal(model[0].weight != 0, kept)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(("normed", "suffix"), [(prune.identity, "orig"), (nn.utils.weight_norm, "v")])
def test_hooks_on_a_weight_of_another_name_are_seen(normed, suffix: str) -> None:
    attention = nn.MultiheadAttention(4, 2)
    assert set(prunable(normed(attention, "in_proj_weight"))) == {f"in_proj_weight_{suffix}", "out_proj.weight"}
    assert set(prunable(normed(own("Mixer", "up_weight", 2, 3), "up_weight"))) == {f"up_weight_{suffix}"}


def test_a_parametrization_whose_zeros_are_others_is_left_out() -> None:
    weights = prunable(nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)), nn.Linear(3, 3)))
    assert list(weights) == ["1.weight"]
    assert "_Orthogonal" in weights.left_out["0.parametrizations.weight.original"]


def test_what_was_left_out_and_why_can_be_asked_for_and_is_printed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Linear(2, 3), nn.Linear(3, 3), nn.PReLU(2))
    model[3].weight.requires_grad_(False)
    weights = prunable(model, exclude="2")
    assert list(weights) == ["0.weight"]
    assert weights["0.weight"] is model[0].weight
    assert weights.left_out == {
        "0.bias": "a bias",
        "1.weight": "normalisation",
        "1.bias": "normalisation",
        "2.weight": "excluded",
        "2.bias": "excluded",
        "3.weight": "frozen: requires_grad is False",
        "3.bias": "a bias",
        "4.weight": "fewer than two dimensions",
    }
    printed = str(weights).splitlines()
    assert printed[0].split() == ["to", "prune,", "18", "weights:"]
    assert printed[1].split() == ["0.weight", "2", "x", "1", "x", "3", "x", "3"]
    assert [line.split()[0] for line in printed[3:]] == list(weights.left_out)
    assert "3.weight  frozen: requires_grad is False" in str(weights)
    assert str(prunable(nn.ReLU())) == "to prune, 0 weights:\nleft out, 0 parameters:"


def own(kind: str, key: str, *shape: int, base: type[nn.Module] = nn.Module) -> nn.Module:
    """A layer of somebody's own class with one parameter."""
    made: nn.Module = type(kind, (base,), {})()
    made.register_parameter(key, nn.Parameter(torch.ones(shape)))
    return made


@pytest.mark.parametrize(
    ("kind", "key", "shape", "pruned"),
    [
        ("Mixer", "weight", (2, 3), True),
        ("Mixer", "weight_up", (2, 3), True),
        ("Mixer", "weight_g", (2, 3), True),
        ("Mixer", "up_weight", (2, 3, 4), True),
        ("Mixer", "weight", (3,), False),
        ("Mixer", "weights", (2, 3), False),
        ("Mixer", "kernel", (2, 3), False),
        ("Mixer", "cls_token", (1, 1, 3), False),
        ("Mixer", "pos_embed", (1, 2, 3), False),
        ("Mixer", "pos_embed_weight", (2, 3), False),
        ("WeightNormLinear", "weight", (2, 3), True),
        ("NormalizedLinear", "weight", (2, 3), True),
        ("PositionwiseLayer", "weight", (2, 3), True),
        ("RMSNorm2d", "weight", (2, 1, 1), False),
        ("LayerNormalization", "weight", (2, 3), False),
        ("LearnedPositions", "weight", (2, 3), False),
        ("VocabularyEmbedding", "weight", (2, 3), False),
    ],
    ids=str,
)
def test_layers_of_ones_own_are_known_by_their_names(kind: str, key: str, shape: tuple[int, ...], pruned: bool) -> None:
    model = nn.Sequential(own(kind, key, *shape), nn.Linear(1, 1))
    assert list(prunable(model)) == [f"0.{key}"] * pruned + ["1.weight"]


def test_complex_weights_are_left_out_whatever_is_included() -> None:
    model = nn.Sequential(nn.Linear(2, 3, dtype=torch.complex64), nn.Linear(3, 2))
    for included in ((), "0.weight"):
        weights = prunable(model, include=included)
        assert list(weights) == ["1.weight"]
        assert weights.left_out["0.weight"] == "complex numbers"


def test_names_of_subclasses_and_of_mixins_mislead_nobody() -> None:
    class PositionEmbeddingNorm(nn.Linear):
        pass

    class EmbeddingAccessMixin(nn.Module):
        """As in transformers, where every model has it."""

    assert list(prunable(PositionEmbeddingNorm(2, 2))) == ["weight"]
    assert list(prunable(own("Model", "weight", 2, 3, base=EmbeddingAccessMixin))) == ["weight"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"exclude": "head.weight", "include": "embedding.weight"}, ["embedding", "stem.0", "stem.1"]),
        ({"exclude": "head"}, ["stem.0", "stem.1"]),
        ({"exclude": "stem"}, ["head"]),
        ({"exclude": "*.0.weight"}, ["stem.1", "head"]),
        ({"exclude": nn.Conv2d}, ["stem.1", "head"]),
        ({"exclude": nn.Sequential}, ["head"]),
        ({"exclude": lambda name, module: not isinstance(module, nn.Conv2d)}, ["stem.0"]),
        ({"exclude": lambda name, module: name == "stem.0.weight"}, ["stem.1", "head"]),
        ({"exclude": ["head", nn.Conv2d]}, ["stem.1"]),
        ({"include": nn.Embedding}, ["embedding", "stem.0", "stem.1", "head"]),
        ({"include": "embedding"}, ["embedding", "stem.0", "stem.1", "head"]),
        ({"include": "*"}, ["embedding", "stem.0", "stem.1", "head"]),  # no vectors and nothing that is frozen
        ({"include": nn.Embedding, "exclude": lambda name, module: "stem" in name}, ["embedding", "head"]),
        ({"include": "embedding", "exclude": "embedding"}, ["stem.0", "stem.1", "head"]),
    ],
)
def test_include_and_exclude(options: dict[str, object], expected: list[str]) -> None:
    model = nn.Module()
    model.embedding = nn.Embedding(5, 2)
    model.stem = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.head, model.frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    assert list(Mask.ones(model, **options)) == [f"{name}.weight" for name in expected]


def test_a_module_is_chosen_by_itself() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Embedding(3, 2))
    wrapped = nn.DataParallel(torch.compile(model))
    assert list(Mask.ones(wrapped, exclude=model[1][0])) == ["0.weight", "1.1.weight"]
    assert list(Mask.ones(wrapped, exclude=model[1])) == ["0.weight"]
    assert list(Mask.ones(wrapped, exclude=[model[0], "1.1"], include=model[2])) == ["1.0.weight", "2.weight"]
    with pytest.raises(ValueError, match=r"exclude=Linear.* matches none"):
        Mask.ones(wrapped, exclude=nn.Linear(2, 2))


NO_CHOICE = r"=(.|\n)* is no choice; expected a name, a module, a type"


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("haed", "='haed' matches none of the model's parameters"),
        (nn.Conv3d, "=.*Conv3d.* matches none of the model's parameters"),
        (nn.Linear(1, 1).weight, NO_CHOICE),
        ([None], NO_CHOICE),
        (True, NO_CHOICE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_choice_of_nothing_is_refused(option: str, wrong: object, said: str) -> None:
    with pytest.raises(ValueError, match=option + said):
        Mask.ones(nn.Linear(2, 2), **{option: wrong})
    with pytest.raises(ValueError, match="include and exclude choose weights of a model"):
        Mask.ones({"w": torch.ones(2)}, **{option: wrong})


class Chosen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.third.weight = self.first.weight

    def prunable(self) -> list[str]:
        return ["second.weight", "third.weight"]


def test_a_models_own_choice_holds_in_its_order_and_is_one_of_its_parameters() -> None:
    model = Chosen()
    wrapped = compiled_and_distributed(model)
    assert list(Mask.ones(wrapped)) == ["second.weight", "first.weight"]
    assert list(Mask.ones(wrapped, exclude="second")) == ["first.weight"]
    assert prunable(wrapped).left_out["first.bias"] == "not named by the model's prunable()"
    model.add_module("module", nn.Linear(2, 2))  # a name of its own, and no prefix of a wrapper
    model.prunable = lambda: ["module.weight"]
    assert list(Mask.ones(model)) == ["module.weight"]
    model.prunable = lambda: ["wieght"]
    with pytest.raises(ValueError, match=r"prunable\(\) names \['wieght'\]"):
        Mask.ones(wrapped)


def test_wrappers_are_seen_wherever_they_are_and_modules_of_that_name_are_no_wrappers() -> None:
    model = nn.Module()
    model.module = nn.Linear(2, 3)
    model.compiled = torch.compile(nn.Sequential(nn.Linear(3, 4)))
    names = ["module.weight", "compiled.0.weight"]
    for wrapped in (model, AveragedModel(model), torch.compile(nn.DataParallel(model))):
        mask = Mask(checkerboard(Mask.ones(wrapped)))
        assert list(mask) == names
        mask.apply_(wrapped)
        state = mask.fitting(wrapped.state_dict())
        assert all(torch.equal(state[name] != 0, mask[name]) for name in names)


def test_a_lazy_layer_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyConv2d(3, 3))
    with pytest.raises(ValueError, match=r"'1\.weight' has no shape yet.*LazyConv2d.*one batch"):
        Mask.ones(model)


def network() -> nn.Module:
    """Two layers that share a weight, and one of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    return model


def checkerboard(mask: Mask) -> dict[str, Tensor]:
    return {name: torch.arange(kept.numel()).view(kept.shape) % 2 == 0 for name, kept in mask.items()}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_every_function_takes_states_with_and_without_prefixes(wrap: Callable[[nn.Module], nn.Module]) -> None:
    bare = network()
    model, other = wrap(network()), network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5)
    mask = Mask(checkerboard(Mask.ones(model)))
    assert list(mask) == ["0.weight", "3.weight"]
    state = model.state_dict()
    # 8 + 4 of the weights survive, and each is 0.5 away
    assert l2_distance(state, other.state_dict(), mask) == pytest.approx(0.5 * math.sqrt(12))
    assert angle(state, bare.state_dict(), mask) == 0.0
    assert error_barrier(lambda weights: float(weights.keys() == state.keys()), state, bare.state_dict()).over_mean == 0
    assert error_barrier(lambda weights: float(weights.keys() == state.keys()), bare.state_dict(), state).over_mean == 0
    for select in (prune_global, prune_layerwise):
        assert select(magnitude(state), mask, 0.5) == select(magnitude(bare.state_dict()), mask, 0.5)
    copied = {name: tensor.clone() for name, tensor in state.items()}
    mask.apply_(copied)
    mask.apply_(model)
    for name in mask:
        assert torch.equal(bare.get_parameter(name) != 0, torch.ones_like(mask[name]))
        assert torch.equal(mask.fitting(copied)[name] != 0, mask[name])
        assert torch.equal(mask.fitting(model.state_dict())[name] != 0, mask[name])


def smallest_of_named(weights: Mapping[str, Tensor], mask: Mask) -> Mask:
    """A pruning of one's own, that takes the mask's names."""
    return prune_global({name: weights[name].abs() for name in mask}, mask, 0.2)


@pytest.mark.parametrize("start", ["bare", "wrapped"])
@pytest.mark.parametrize(("rewind", "prune"), [(0, smallest_of_named), (1, prune_lowest)])
def test_a_search_takes_a_training_of_a_wrapped_model(start: str, rewind: int, prune: Callable[..., Mask]) -> None:
    model = network()
    wrapped = compiled_and_distributed(model)
    loaded, initial = (wrapped, wrapped.state_dict()) if start == "wrapped" else (model, model.state_dict())
    initial = {name: tensor.clone() for name, tensor in initial.items()}

    def train(ticket, stop):
        loaded.load_state_dict(ticket.weights)
        for _ in range(ticket.iteration, 2 if stop is None else stop):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.5)
            ticket.mask.apply_(wrapped)
        return (model if start == "wrapped" else wrapped).state_dict(), None

    ones = Mask.ones(wrapped)
    *_, last = iterative_magnitude_pruning(train, initial, ones, levels=2, rewind=rewind, prune=prune)
    assert last.mask.survivors == 24 - round(0.2 * 24) - round(0.2 * 19)
    assert last.trained.keys() == initial.keys()
    for name, weight in last.mask.fitting(last.trained).items():
        expected = torch.where(last.mask[name], last.mask.fitting(initial)[name] * 1.5**2, 0.0)
        assert torch.allclose(weight, expected)


def test_a_name_that_two_prefixes_give_twice_is_refused() -> None:
    twice = {"module.weight": torch.ones(2), "_orig_mod.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"'weight' is in the mask, but not in what is given: module\.weight"):
        Mask({"weight": torch.ones(2)}).apply_(twice)


def test_a_weight_that_layers_share_is_one_weight_however_the_state_was_copied(tmp_path) -> None:
    model = network()
    ones = Mask.ones(model)
    assert ones.shared == {"2.weight": "0.weight"}
    pruned = prune_global(magnitude(ones.fitting(model.state_dict())), ones, 0.5)
    pruned.save(tmp_path / "mask.safetensors")
    for mask in (
        pruned,
        prune_layerwise(magnitude(model.state_dict()), ones, 0.5),
        shuffle_within_layers(pruned, 0),
        Mask.load(tmp_path / "mask.safetensors"),
        load_mask(tmp_path / "mask.safetensors"),
        Mask(pruned),
    ):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        ticket = subnetwork(state, mask, 0, 1)
        other = network()
        other.load_state_dict(ticket.weights)
        assert torch.equal(other[2].weight != 0, mask["0.weight"])
        assert torch.equal(ticket.weights["0.weight"], ticket.weights["2.weight"])


def test_a_module_in_two_places_has_two_names() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    weights = prunable(model)
    assert weights.shared == {"2.weight": "0.weight"}
    assert list(weights) == ["0.weight"]
    assert Mask({"2.weight": torch.ones(2, 2)}).fitting(model)["2.weight"] is layer.weight


def test_a_weight_is_pruned_where_any_of_the_layers_that_share_it_is_but_for_embeddings() -> None:
    normed, layers = own("RMSNorm", "weight", 2, 2), [nn.Linear(2, 2), nn.Linear(2, 2)]
    layers[0].weight = normed.weight
    assert list(prunable(nn.Sequential(normed, layers[0]))) == ["0.weight"]
    embedding = nn.Embedding(2, 2)
    layers[0].weight = layers[1].weight = embedding.weight
    with pytest.warns(UserWarning, match=r"an embedding shares it with 1\.weight, 2\.weight\. To prune it"):
        prunable(nn.Sequential(embedding, *layers))


def test_a_search_with_a_pruning_of_ones_own_keeps_shared_weights_one() -> None:
    model = network()
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def train(ticket, stop):
        model.load_state_dict(ticket.weights)
        return model.state_dict(), None

    *_, last = iterative_magnitude_pruning(
        train, initial, Mask.ones(model), levels=1, prune=lambda weights, mask: Mask(checkerboard(mask))
    )
    assert int((last.trained["2.weight"] == 0).sum()) == 8


def test_weights_in_channels_last_are_pruned_where_they_are_small() -> None:
    model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    smallest = sorted(range(144), key=lambda i: abs(float(model.weight.detach().flatten()[i])))[:72]
    mask = prune_global(magnitude(prunable(model)), Mask.ones(model), 0.5)
    mask.apply_(model)
    assert set((model.weight.flatten() == 0).nonzero().flatten().tolist()) == set(smallest)
