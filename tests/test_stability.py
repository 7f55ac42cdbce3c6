import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lth_core import Mask, angle, l2_distance

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


@given(st.lists(entries, min_size=1, max_size=3))
def test_l2_distance_agrees_with_the_sum_by_hand(layers):
    expected = math.sqrt(math.fsum((x - y) ** 2 for x, y in surviving(layers)))
    assert l2_distance(*mappings(layers)) == pytest.approx(expected, rel=1e-13, abs=0)


@given(st.lists(entries, min_size=1, max_size=3))
def test_angle_agrees_with_the_exact_cross_and_dot_products(layers):
    pairs = [(Fraction(x), Fraction(y)) for x, y in surviving(layers)]
    assume(any(x for x, _ in pairs) and any(y for _, y in pairs))
    dot = sum(x * y for x, y in pairs)
    cross = sum((x1 * y2 - x2 * y1) ** 2 for i, (x1, y1) in enumerate(pairs) for x2, y2 in pairs[:i])
    expected = math.degrees(math.atan2(math.sqrt(cross), dot))
    assert angle(*mappings(layers)) == pytest.approx(expected, rel=1e-12, abs=1e-13)


def test_l2_distance_is_not_normalised_and_spans_layers():
    a = {"x": torch.tensor([[3.0, 0.0]]), "y": torch.tensor([0.0, 1.0])}
    b = {"x": torch.tensor([[0.0, 0.0]]), "y": torch.tensor([4.0, 1.0])}
    assert l2_distance(a, b, Mask.ones(a)) == 5.0


def test_l2_distance_of_float32_weights_is_computed_in_float64():
    a = {"w": torch.full((1_000_000,), 0.1)}
    b = {"w": torch.zeros(1_000_000)}
    assert l2_distance(a, b, Mask.ones(a)) == pytest.approx(1000 * float(torch.tensor(0.1)), rel=1e-10)


def test_distances_are_plain_floats():
    a, b, mask = vectors([1.0, 2.0], [2.0, 1.0])
    assert type(l2_distance(a, b, mask)) is float
    assert type(angle(a, b, mask)) is float


@given(st.lists(numbers, min_size=1, max_size=20).filter(any))
def test_equal_vectors_are_at_exactly_zero(values):
    a, b, mask = vectors(values, values)
    assert l2_distance(a, b, mask) == 0.0
    assert angle(a, b, mask) == 0.0


@given(st.lists(numbers, min_size=1, max_size=20).filter(any))
def test_opposite_vectors_are_at_180_degrees(values):
    a, b, mask = vectors(values, [-value for value in values])
    assert angle(a, b, mask) == 180.0


@pytest.mark.parametrize(
    ("b", "degrees"), [([0.0, 2.0], 90), ([3.0, 3.0], 45), ([-1.0, 1.0], 135), ([math.sqrt(3), 1.0], 30)]
)
def test_known_angles(b, degrees):
    assert angle(*vectors([5.0, 0.0], b)) == pytest.approx(degrees, rel=1e-14)


@pytest.mark.parametrize("radians", [1e-3, 1e-6, 1e-9])
def test_tiny_angles_keep_their_digits(radians):
    a, b, mask = vectors([1.0, 0.0], [math.cos(radians), math.sin(radians)])
    assert angle(a, b, mask) == pytest.approx(math.degrees(radians), rel=1e-6)
    a, b, mask = vectors([1.0, 0.0], [-math.cos(radians), math.sin(radians)])
    assert 180 - angle(a, b, mask) == pytest.approx(math.degrees(radians), rel=1e-4)


@given(entries, st.floats(1e-20, 1e20), st.floats(1e-20, 1e20))
def test_the_angle_does_not_depend_on_lengths(layer, first, second):
    x, y = [x for x, _, _ in layer], [y for _, y, _ in layer]
    assume(any(x) and any(y))
    scaled = angle(*vectors([first * value for value in x], [second * value for value in y]))
    assert scaled == pytest.approx(angle(*vectors(x, y)), rel=1e-12, abs=1e-12)


@given(entries)
def test_both_distances_are_symmetric(layer):
    a, b, mask = mappings([layer])
    assert l2_distance(a, b, mask) == l2_distance(b, a, mask)
    assume(any(x for x, _ in surviving([layer])) and any(y for _, y in surviving([layer])))
    assert angle(a, b, mask) == angle(b, a, mask)


@pytest.mark.parametrize(
    ("a", "b"),
    [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0]), ([math.nan, 1.0], [1.0, 2.0]), ([math.inf, 1.0], [1.0, 2.0])],
)
def test_there_is_no_angle_with_a_vector_that_has_no_direction(a, b):
    with pytest.raises(ValueError, match="no angle"):
        angle(*vectors(a, b))


def test_there_is_no_angle_when_nothing_survives():
    a, b, _ = vectors([1.0, 2.0], [3.0, 4.0])
    nothing = Mask({"w": torch.tensor([False, False])})
    assert l2_distance(a, b, nothing) == 0.0
    with pytest.raises(ValueError, match="no angle"):
        angle(a, b, nothing)


def test_only_surviving_entries_of_masked_layers_count():
    a = {"w": torch.tensor([[1.0, math.nan], [0.0, 7.0]]), "bias": torch.tensor([9.0])}
    b = {"w": torch.tensor([[0.0, 5.0], [1.0, math.inf]]), "bias": torch.tensor([-9.0])}
    mask = Mask({"w": torch.tensor([[True, False], [True, False]])})
    assert l2_distance(a, b, mask) == pytest.approx(math.sqrt(2), rel=1e-15)
    assert angle(a, b, mask) == pytest.approx(90, rel=1e-15)


def test_measuring_changes_no_weights():
    a, b, mask = vectors([1.0, 2.0, 3.0], [3.0, 2.0, 2.0])
    l2_distance(a, b, mask)
    angle(a, b, mask)
    assert (a["w"].tolist(), b["w"].tolist()) == ([1.0, 2.0, 3.0], [3.0, 2.0, 2.0])
