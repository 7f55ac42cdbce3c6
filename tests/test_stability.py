import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lth_core import (
    ErrorBarrier,
    Mask,
    angle,
    error_barrier,
    l2_distance,
    stability_to_data_order,
    stability_to_pruning,
)

numbers = st.one_of(st.just(0.0), st.floats(2**-7, 128, width=32), st.floats(-128, -(2**-7), width=32))
entries = st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=8)


def vectors(*values: list[float]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Mask]:
    a, b = ({"w": torch.tensor(v, dtype=torch.float64)} for v in values)
    return a, b, Mask.ones(a)


def mappings(layers: list[list[tuple[float, float, bool]]]):
    columns = [[torch.tensor(column) for column in zip(*layer, strict=True)] for layer in layers]
    a, b, keep = ({str(i): tensors[j] for i, tensors in enumerate(columns)} for j in range(3))
    return a, b, Mask(keep)


def surviving(layers: list[list[tuple[float, float, bool]]]) -> list[tuple[float, float]]:
    return [(x, y) for layer in layers for x, y, kept in layer if kept]


@given(st.lists(entries, max_size=3))
def test_l2_distance_of_float32_weights_is_the_sum_in_float64(layers):
    a, b, mask = mappings(layers)
    expected = math.sqrt(math.fsum((x - y) ** 2 for x, y in surviving(layers)))
    assert l2_distance(a, b, mask) == l2_distance(b, a, mask) == pytest.approx(expected, rel=1e-13, abs=0)
    assert type(l2_distance(a, b, mask)) is float


@given(st.lists(entries, min_size=1, max_size=3), st.floats(1e-20, 1e20), st.floats(1e-20, 1e20))
def test_angle_agrees_with_the_exact_cross_and_dot_products_whatever_the_lengths(layers, first, second):
    pairs = [(Fraction(x), Fraction(y)) for x, y in surviving(layers)]
    assume(any(x for x, _ in pairs) and any(y for _, y in pairs))
    dot = sum(x * y for x, y in pairs)
    cross = sum((x1 * y2 - x2 * y1) ** 2 for i, (x1, y1) in enumerate(pairs) for x2, y2 in pairs[:i])
    expected = math.degrees(math.atan2(math.sqrt(cross), dot))
    a, b, mask = mappings(layers)
    assert angle(a, b, mask) == angle(b, a, mask) == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert type(angle(a, b, mask)) is float
    longer, other = ({n: w.double() * by for n, w in end.items()} for end, by in ((a, first), (b, second)))
    assert angle(longer, other, mask) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(st.lists(numbers, min_size=1, max_size=20).filter(any))
def test_equal_vectors_are_at_exactly_zero_and_opposite_ones_at_180_degrees(values):
    a, opposite, mask = vectors(values, [-value for value in values])
    assert l2_distance(a, a, mask) == 0.0
    assert angle(a, a, mask) == 0.0
    assert angle(a, opposite, mask) == 180.0


@pytest.mark.parametrize("radians", [1e-3, 1e-6, 1e-9])
def test_tiny_angles_keep_their_digits(radians):
    a, b, mask = vectors([1.0, 0.0], [math.cos(radians), math.sin(radians)])
    assert angle(a, b, mask) == pytest.approx(math.degrees(radians), rel=1e-6)
    a, b, mask = vectors([1.0, 0.0], [-math.cos(radians), math.sin(radians)])
    assert 180 - angle(a, b, mask) == pytest.approx(math.degrees(radians), rel=1e-4)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        ([0.0, 0.0], [1.0, 2.0]),
        ([1.0, 2.0], [0.0, 0.0]),
        ([math.nan, 1.0], [1.0, 2.0]),
        ([math.inf, 1.0], [1.0, 2.0]),
    ],
)
def test_there_is_no_angle_with_a_vector_that_has_no_direction(a, b):
    with pytest.raises(ValueError, match="no angle with a vector of length"):
        angle(*vectors(a, b))


def test_only_surviving_entries_of_masked_layers_count():
    a = {"w": torch.tensor([[1.0, math.nan], [0.0, 7.0]]), "bias": torch.tensor([9.0])}
    b = {"w": torch.tensor([[0.0, 5.0], [1.0, math.inf]]), "bias": torch.tensor([-9.0])}
    mask = Mask({"w": torch.tensor([[True, False], [True, False]])})
    assert l2_distance(a, b, mask) == pytest.approx(math.sqrt(2), rel=1e-15)
    assert angle(a, b, mask) == pytest.approx(90, rel=1e-15)


# The paper's two stabilities


def some_ends(count: int) -> tuple[list[dict[str, torch.Tensor]], Mask]:
    """Ends of a subnetwork of two layers with biases, in float32, and its mask."""
    chance = torch.Generator().manual_seed(count)
    shapes = {"a.weight": (3, 4), "a.bias": (3,), "b.weight": (2, 3)}
    ends = [{n: torch.randn(shape, generator=chance) for n, shape in shapes.items()} for _ in range(count)]
    keep = {n: torch.rand(shapes[n], generator=chance) < 0.6 for n in ("a.weight", "b.weight")}
    return ends, Mask(keep)


def by_hand(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], mask: Mask) -> tuple[float, float]:
    u, v = (np.concatenate([end[n].double().numpy()[mask[n].numpy()] for n in mask]) for end in (a, b))
    degrees = np.degrees(np.arccos(u @ v / np.sqrt((u @ u) * (v @ v))))
    return float(np.sqrt(((u - v) ** 2).sum())), float(degrees)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_stabilities_are_means_over_pairs_by_hand(count: int):
    ends, mask = some_ends(count)
    one_by_one = [(ends[0], ticket) for ticket in ends[1:]]
    all_pairs = [(ends[i], ends[j]) for i in range(count) for j in range(i)]
    for found, pairs in (
        (stability_to_pruning(iter(one_by_one), mask), one_by_one),
        (stability_to_data_order(iter(ends), mask), all_pairs),
    ):
        lengths, angles = zip(*(by_hand(a, b, mask) for a, b in pairs), strict=True)
        assert found.l2 == pytest.approx(sum(lengths) / len(pairs), rel=1e-12)
        assert found.angle == pytest.approx(sum(angles) / len(pairs), rel=1e-12)


def test_the_angle_is_nan_where_one_end_has_no_direction_and_the_distance_stays():
    a, zero, mask = vectors([3.0, 4.0], [0.0, 0.0])
    for found in (
        stability_to_data_order([a, a, zero], mask),
        stability_to_pruning([(a, a), (zero, a), (zero, a)], mask),
    ):
        assert found.l2 == pytest.approx(10 / 3, rel=1e-15)
        assert math.isnan(found.angle)


def test_stability_needs_two_ends_to_compare():
    end, _, mask = vectors([1.0], [1.0])
    with pytest.raises(ValueError, match="no two ends to compare; give at least one pair"):
        stability_to_pruning([], mask)
    for ends in ([], [end]):
        with pytest.raises(ValueError, match="no two ends to compare; give the ends of at least two"):
            stability_to_data_order(ends, mask)


# The error barrier


def network(seed: int) -> torch.nn.Sequential:
    """Two layers from 4 inputs to 3 classes, with batch norm between them, whose numbers are all random."""
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    )
    chance = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(seed)
        elif name.endswith("running_var"):
            tensor.uniform_(0.2, 2.0, generator=chance)
        else:
            tensor.normal_(generator=chance)
    return model.eval()


def logits_by_hand(weights: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    hidden = inputs @ weights["0.weight"].T + weights["0.bias"]
    scaled = (hidden - weights["1.running_mean"]) / np.sqrt(weights["1.running_var"] + 1e-5)
    shifted = weights["1.weight"] * scaled + weights["1.bias"]
    return np.maximum(shifted, 0) @ weights["3.weight"].T + weights["3.bias"]


@pytest.mark.parametrize("points", [2, 5, 11])
def test_the_barrier_agrees_with_networks_interpolated_by_hand(points: int):
    a, b, model = (network(seed) for seed in (1, 2, 3))
    chance = np.random.default_rng(0)
    inputs = chance.standard_normal((600, 4))
    first, second = ({name: t.double().numpy() for name, t in end.state_dict().items()} for end in (a, b))
    labels = {"one": logits_by_hand(first, inputs).argmax(1), "other": chance.integers(0, 3, 600)}

    def evaluate(weights: dict[str, torch.Tensor]) -> dict[str, float]:
        model.load_state_dict(weights)
        with torch.no_grad():
            found = model(torch.from_numpy(inputs).float()).argmax(1).numpy()
        return {name: 100 * float((found != label).mean()) for name, label in labels.items()}

    barriers = error_barrier(evaluate, a.state_dict(), b.state_dict(), points=points)
    assert set(barriers) == set(labels)
    for name, label in labels.items():
        errors = []
        for share in np.linspace(0, 1, points):
            between = {key: (1 - share) * first[key] + share * second[key] for key in first}
            errors.append(100 * (logits_by_hand(between, inputs).argmax(1) != label).mean())
        # float32 puts at most one of the 600 inputs on the other side of a border between two classes
        assert barriers[name].over_mean == pytest.approx(max(errors) - (errors[0] + errors[-1]) / 2, abs=0.17)
        line = np.linspace(errors[0], errors[-1], points)
        assert barriers[name].over_line == pytest.approx(max(errors - line), abs=0.17)
    one = error_barrier(lambda weights: evaluate(weights)["one"], a.state_dict(), b.state_dict(), points=points)
    assert one == barriers["one"]


@pytest.mark.parametrize(
    ("errors", "over_mean", "over_line"),
    [
        ([10, 40, 20], 25, 25),  # a hill in the middle
        ([10, 14, 20], 5, 0),  # below the straight line everywhere: only the worse end is over the mean
        ([10, 24, 20, 22, 30], 10, 9),  # the largest excess is not where the largest error is
        ([50, 50], 0, 0),
    ],
)
def test_both_heights_of_known_errors(errors: list[float], over_mean: float, over_line: float):
    along = iter(errors)
    weights = {"w": torch.zeros(1)}
    found = error_barrier(lambda _: next(along), weights, weights, points=len(errors))
    assert found == ErrorBarrier(over_mean, over_line)
    assert (type(found.over_mean), type(found.over_line)) == (float, float)


def test_what_is_no_tensor_has_no_part_in_a_line():
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    a = {"w": torch.tensor([1.0]), "epoch": 3, "optimizer": optimizer}
    b = {"w": torch.tensor([3.0]), "epoch": 4}
    seen = []
    found = error_barrier(lambda weights: seen.append(weights) or float(weights["w"] ** 2), a, b, points=3)
    assert seen == [{"w": 1.0}, {"w": 2.0}, {"w": 3.0}]
    assert found == ErrorBarrier(9.0 - (1 + 9) / 2, 0.0)


def test_points_are_interpolated_in_float64_and_both_ends_keep_their_bits():
    a = {"w": torch.tensor([0.1, -0.0, 1e8]), "half": torch.tensor([1.0], dtype=torch.float16), "n": torch.tensor(3)}
    b = {"w": torch.tensor([0.7, -0.0, 3.0]), "half": torch.tensor([2.0], dtype=torch.float16), "n": torch.tensor(9)}
    a["extreme"], b["extreme"] = torch.tensor([-0.0, 1.0, 0.0]), torch.tensor([1.0, -0.0, math.inf])
    seen = []

    def evaluate(weights: dict[str, torch.Tensor]) -> float:
        seen.append({name: tensor.clone() for name, tensor in weights.items()})
        for tensor in weights.values():
            tensor.zero_()  # they are its own
        return 0.0

    error_barrier(evaluate, a, b)
    assert len(seen) == 11
    for point, weights in enumerate(seen):
        exact = [
            Fraction(x) * (10 - point) / 10 + Fraction(y) * point / 10
            for x, y in zip(a["w"].tolist(), b["w"].tolist(), strict=True)
        ]
        assert weights["w"].tolist() == torch.tensor([float(x) for x in exact]).tolist()
        assert weights["half"].dtype == torch.float16
        assert weights["n"].item() == 3
    for end, weights in ((a, seen[0]), (b, seen[-1])):
        for name in ("w", "extreme"):
            assert weights[name].view(torch.int32).tolist() == end[name].view(torch.int32).tolist()
        assert torch.equal(weights["half"], end["half"])
    assert a["w"][0] != 0
    assert b["n"] == 9


@pytest.mark.parametrize(
    ("b", "points", "message"),
    [
        ({"w": torch.zeros(2)}, 1, "points=1 .* 2"),
        ({"v": torch.zeros(2)}, 11, r"\['v', 'w'\]; give state dicts of one"),
        ({"w": torch.zeros(3)}, 11, r"'w': torch.float32 \(2,\) and torch.float32 \(3,\)"),
        ({"w": torch.zeros(2, dtype=torch.float64)}, 11, "torch.float64 .*; give weights of one shape and type"),
    ],
)
def test_weights_that_have_no_line_between_them_are_refused(b: dict[str, torch.Tensor], points: int, message: str):
    with pytest.raises(ValueError, match=message):
        error_barrier(lambda _: 0.0, {"w": torch.zeros(2)}, b, points=points)
