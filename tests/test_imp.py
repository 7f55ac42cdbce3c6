import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations, pairwise
from typing import Any, get_args

import pytest
import torch

from lth_core import (
    Level,
    Mask,
    Ticket,
    densities_to,
    iterative_magnitude_pruning,
    one_shot_pruning,
    prune_lowest,
    random_pruning,
    random_reinitialisation,
    subnetwork,
)
from lth_core.levels import Retrain

END = 9
SIZES = {"first": 30, "second": 20}
Numbers = dict[str, list[float]]
Kept = dict[str, list[bool]]
InLists = list[tuple[Kept, Numbers, Numbers]]
"""Mask, W_k and trained weights of every level."""


def drift(position: int, iteration: int) -> float:
    """What one update adds to a weight, different at every position and iteration."""
    return ((position * 7 + iteration * 13) % 31 - 15) / 64


def initial() -> Numbers:
    values = {name: [((i * 11 + 5) % 23 - 11) / 16 for i in range(size)] for name, size in SIZES.items()}
    return values | {"bias": [0.5, -0.5], "updates_seen": [0.0]}


def tensors(numbers: Numbers) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in numbers.items()}


def numbers(weights: dict[str, torch.Tensor]) -> Numbers:
    return {name: tensor.tolist() for name, tensor in weights.items()}


def ones() -> Mask:
    return Mask.ones({name: torch.zeros(size) for name, size in SIZES.items()})


class Trainer:
    """A deterministic training: weights, a bias and a buffer move, pruned weights do not. It notes its calls.

    It works in the ticket's own tensors and hands these out as its result. `spoil` is called with them when the next
    training starts: by then they belong to nobody.
    """

    def __init__(self, spoil: Callable[[dict[str, torch.Tensor]], None] | None = None) -> None:
        self.calls: list[tuple[int, int | None, int]] = []
        self.remaining: list[int | None] = []
        self.spoil = spoil
        self.handed_out: list[dict[str, torch.Tensor]] = []

    def __call__(self, ticket: Ticket, stop: int | None) -> tuple[dict[str, torch.Tensor], str]:
        if self.spoil is not None:
            for weights in self.handed_out:
                self.spoil(weights)
        self.calls.append((ticket.iteration, stop, ticket.level))
        self.remaining.append(ticket.remaining)
        weights = ticket.weights
        for iteration in range(ticket.iteration, END if stop is None else stop):
            for name, size in SIZES.items():
                step = torch.tensor([drift(i, iteration) for i in range(size)], dtype=torch.float64)
                weights[name].mul_(0.75).add_(step).mul_(ticket.mask[name])
            weights["bias"].mul_(0.5).add_(iteration)
            weights["updates_seen"].add_(1)
        self.handed_out.append(weights)
        return weights, f"call {len(self.calls)}"


def fill_with_nan(weights: dict[str, torch.Tensor]) -> None:
    for tensor in weights.values():
        tensor.fill_(float("nan"))


def everything() -> Kept:
    return {name: [True] * size for name, size in SIZES.items()}


def trained_by_hand(start: Numbers, kept: Kept, first: int, last: int) -> Numbers:
    weights = {name: list(values) for name, values in start.items()}
    for iteration in range(first, last):
        for name in SIZES:
            moved = [0.75 * w + drift(i, iteration) for i, w in enumerate(weights[name])]
            weights[name] = [w if keep else 0.0 for w, keep in zip(moved, kept[name], strict=True)]
        weights["bias"] = [0.5 * b + iteration for b in weights["bias"]]
        weights["updates_seen"] = [weights["updates_seen"][0] + 1]
    return weights


def masked_by_hand(weights: Numbers, kept: Kept) -> Numbers:
    masked = {n: [w if keep else 0.0 for w, keep in zip(weights[n], kept[n], strict=True)] for n in kept}
    return {**weights, **masked}


def pruned_by_hand(weights: Numbers, kept: Kept, remove: int) -> Kept:
    alive = [(abs(weights[n][i]), layer, i) for layer, n in enumerate(SIZES) for i in range(SIZES[n]) if kept[n][i]]
    fallen = {(layer, i) for _, layer, i in sorted(alive)[:remove]}
    return {n: [k and (layer, i) not in fallen for i, k in enumerate(kept[n])] for layer, n in enumerate(SIZES)}


def by_hand(
    rewind: int, counts: Sequence[int], retrain: str = "weight_rewinding", *, one_shot: bool = False
) -> InLists:
    """Mask, W_k and trained weights of every level in plain Python; each pruning keeps one of the counts."""
    w_k = trained_by_hand(initial(), everything(), 0, rewind)
    found = [(everything(), w_k, trained_by_hand(w_k, everything(), rewind, END))]
    for count in counts:
        before, _, trained = found[0 if one_shot else -1]
        kept = pruned_by_hand(trained, before, sum(map(sum, before.values())) - count)
        start = w_k if retrain == "weight_rewinding" else trained
        first, last = (END, END + END - rewind) if retrain == "fine_tuning" else (rewind, END)
        found.append((kept, start, trained_by_hand(masked_by_hand(start, kept), kept, first, last)))
    return found


def algorithm_1(rewind: int, levels: int, retrain: str = "weight_rewinding") -> InLists:
    return by_hand(rewind, [40, 32, 26, 21, 17][:levels], retrain)  # n - round(0.2 n) each


def as_lists(mask: Mask) -> Kept:
    return {name: mask[name].tolist() for name in mask}


def in_lists(levels: Iterable[Level]) -> InLists:
    return [(as_lists(mask), numbers(rewound), numbers(trained)) for mask, rewound, trained, _ in levels]


def in_lists_spoiling(levels: Iterable[Level]) -> InLists:
    """The same, where whoever gets a level ruins it before asking for the next."""
    found = []
    for level in levels:
        found += in_lists([level])
        fill_with_nan(level.rewound)
        fill_with_nan(level.trained)
    return found


@pytest.mark.parametrize(("rewind", "levels"), [(0, 5), (1, 5), (4, 5), (END - 1, 5), (4, 0)])
def test_imp_is_algorithm_1_on_copies_of_the_weights_handed_around(rewind, levels):
    train, weights = Trainer(spoil=fill_with_nan), tensors(initial())
    asked = {"rewind": rewind} if rewind else {}
    found = list(iterative_magnitude_pruning(train, weights, ones(), levels=levels, **asked))
    assert in_lists(found) == algorithm_1(rewind, levels)
    toward_w_k = [(0, rewind, 0)] if rewind else []
    assert train.calls == [*toward_w_k, *((rewind, None, level) for level in range(levels + 1))]
    assert set(train.remaining) == {None}  # nobody said how long a training is
    assert [level.result for level in found] == [f"call {len(toward_w_k) + n}" for n in range(1, levels + 2)]
    assert numbers(weights) == initial()


EXTENT = {iterative_magnitude_pruning: {"levels": 2}, one_shot_pruning: {"densities": [0.8, 0.2]}}
procedures = pytest.mark.parametrize("procedure", EXTENT)


class Memory(dict[int, Level]):
    """Levels kept in memory. No level is kept twice."""

    def load(self, level: int) -> Level | None:
        return self.get(level)

    def keep(self, level: int, found: Level) -> None:
        assert level not in self
        self[level] = found


DEPTH = 4
SUBSETS = [set(there) for count in range(DEPTH + 2) for there in combinations(range(DEPTH + 1), count)]


@pytest.mark.parametrize(
    ("rewind", "retrain"),
    [(0, "weight_rewinding"), (4, "weight_rewinding"), (4, "learning_rate_rewinding"), (4, "fine_tuning")],
)
@pytest.mark.parametrize("first", range(DEPTH + 1))
def test_a_search_goes_on_from_the_deepest_level_up_to_first_whichever_are_saved(first: int, rewind: int, retrain: Any):
    saved, asked = Memory(), {"levels": DEPTH, "rewind": rewind, "retrain": retrain, "iterations": END}
    list(iterative_magnitude_pruning(Trainer(), tensors(initial()), ones(), saved=saved, **asked))
    expected = algorithm_1(rewind, DEPTH, retrain)[first:]
    for there in SUBSETS:
        kept, train = Memory({level: saved[level] for level in there}), Trainer(spoil=fill_with_nan)
        found = iterative_magnitude_pruning(train, tensors(initial()), ones(), saved=kept, first=first, **asked)
        assert in_lists_spoiling(found) == expected
        assert in_lists(kept[level] for level in range(first, DEPTH + 1)) == expected
        usable = [level for level in there if level <= first]
        toward_w_k = [(0, rewind, 0)] if rewind and not usable else []
        retrained = [n for n in range(max(usable, default=0), DEPTH + 1) if n not in there]
        assert train.calls[: len(toward_w_k)] == toward_w_k
        assert [level for *_, level in train.calls[len(toward_w_k) :]] == retrained
        assert sorted(kept) == sorted(there.union(retrained))


@pytest.fixture
def sparse() -> Mask:
    return Mask({"first": torch.arange(30) < 6, "second": torch.arange(20) < 10})


def test_a_subnetwork_is_the_masked_weights_in_tensors_of_its_own(sparse):
    weights = tensors(initial())
    ticket = subnetwork(weights, sparse, 4, 2)
    assert numbers(ticket.weights) == masked_by_hand(initial(), as_lists(sparse))
    assert (ticket.mask, ticket.iteration, ticket.level) == (sparse, 4, 2)
    reinitialised = random_reinitialisation(sparse, weights, 4, 2)
    assert numbers(reinitialised.weights) == numbers(ticket.weights)
    assert (reinitialised.mask, reinitialised.iteration, reinitialised.level) == (sparse, 4, 2)
    fill_with_nan(ticket.weights)
    fill_with_nan(reinitialised.weights)
    assert numbers(weights) == initial()
    weights["tied"] = weights["first"]
    tied = subnetwork(weights, sparse, 4, 2).weights
    assert tied["tied"] is tied["first"]  # one weight of two names stays one


def test_random_pruning_changes_the_mask_and_keeps_counts_iteration_and_w_k_on_survivors(sparse):
    ticket = random_pruning(sparse, tensors(initial()), 3, 4, 2)
    kept = as_lists(ticket.mask)
    assert all(kept[name] != as_lists(sparse)[name] for name in SIZES)
    assert {name: sum(values) for name, values in kept.items()} == {"first": 6, "second": 10}
    assert numbers(ticket.weights) == masked_by_hand(initial(), kept)
    assert (ticket.iteration, ticket.level) == (4, 2)
    again, other = (random_pruning(sparse, tensors(initial()), seed, 4, 2).mask for seed in (3, 4))
    assert again == ticket.mask != other


def growing(ticket: Ticket, stop: int | None) -> tuple[dict[str, torch.Tensor], None]:
    return ticket.weights, None


def test_a_training_that_diverged_is_a_result():
    def diverging(ticket: Ticket, stop: int | None) -> tuple[dict[str, torch.Tensor], None]:
        if ticket.level:
            fill_with_nan(ticket.weights)
        return ticket.weights, None

    *_, last = iterative_magnitude_pruning(diverging, tensors(initial()), ones(), levels=1)
    assert last.trained["first"].isnan().all()


@pytest.mark.parametrize("rewind", [0, 4])
def test_one_shot_pruning_prunes_one_dense_network_to_each_density_and_trains_what_is_not_saved(rewind: int):
    saved, asked = Memory(), {"densities": (0.8, 0.1, 1.0, 0.0), "rewind": rewind}
    expected = by_hand(rewind, (40, 5, 50, 0), one_shot=True)
    list(one_shot_pruning(Trainer(), tensors(initial()), ones(), **asked, saved=saved))
    for there in SUBSETS:
        kept, train = Memory({level: saved[level] for level in there}), Trainer(spoil=fill_with_nan)
        found = one_shot_pruning(train, tensors(initial()), ones(), **asked, saved=kept)
        assert in_lists_spoiling(found) == expected
        assert in_lists(kept[level] for level in range(5)) == expected
        toward_w_k = [(0, rewind, 0)] if rewind and 0 not in there else []
        assert train.calls == [*toward_w_k, *((rewind, None, level) for level in range(5) if level not in there)]


@pytest.mark.parametrize("density", [0.5, 0.3])
def test_both_procedures_keep_the_same_weights_of_an_odd_count(density: float):
    odd = Mask({"first": torch.arange(30) > 0, "second": torch.ones(20)})
    search = Trainer(), tensors(initial()), odd
    level, other = (list(procedure(*search, densities=[density]))[1] for procedure in EXTENT)
    assert level.mask == other.mask
    assert level.mask.survivors == round(density * 49)


@procedures
def test_a_loop_that_stops_early_trains_nothing_further_and_keeps_what_it_trained(procedure):
    train, kept = Trainer(), Memory()
    levels = procedure(train, tensors(initial()), ones(), rewind=4, saved=kept, **EXTENT[procedure])
    assert train.calls == []
    next(levels)
    assert train.calls == [(0, 4, 0), (4, None, 0)]
    assert sorted(kept) == [0]
    next(levels)
    assert train.calls == [(0, 4, 0), (4, None, 0), (4, None, 1)]
    assert sorted(kept) == [0, 1]


@procedures
def test_a_training_that_moved_pruned_weights_is_refused_and_not_kept(procedure):
    def careless(ticket: Ticket, stop: int | None) -> tuple[dict[str, torch.Tensor], None]:
        return {name: weight + 0.5 for name, weight in ticket.weights.items()}, None

    kept = Memory()
    with pytest.raises(ValueError, match=r"first: pruned weights are not 0 after training; call ticket\.mask\.apply_"):
        list(procedure(careless, tensors(initial()), ones(), saved=kept, **EXTENT[procedure]))
    assert list(kept) == [0]  # nothing is pruned yet


@pytest.mark.parametrize(
    ("procedure", "asked", "message"),
    [
        (iterative_magnitude_pruning, {"levels": -1}, "cannot prune -1 times"),
        (iterative_magnitude_pruning, {"levels": 2, "first": -1}, "cannot start at level -1; choose from 0"),
        (iterative_magnitude_pruning, {"levels": 2, "first": 3}, "cannot start at level 3; choose from 0"),
        (one_shot_pruning, {"densities": [0.5], "rewind": -1}, "cannot rewind to iteration -1"),
        (one_shot_pruning, {"densities": [0.5, 1.01]}, "cannot keep 1.01 of the weights"),
        (one_shot_pruning, {"densities": [0.5, -0.01]}, "cannot keep -0.01 of the weights"),
        (iterative_magnitude_pruning, {}, "give either levels .* or densities .*, not both"),
        (iterative_magnitude_pruning, {"levels": 1, "densities": [0.5]}, "give either levels .* or densities"),
        (iterative_magnitude_pruning, {"densities": [0.5, 0.6]}, r"cannot keep \[0.5, 0.6\] in turn"),
        (iterative_magnitude_pruning, {"densities": [1.1]}, r"cannot keep \[1.1\] in turn"),
        (iterative_magnitude_pruning, {"densities": [-0.1]}, r"cannot keep \[-0.1\] in turn"),
        (iterative_magnitude_pruning, {"densities": [0.5], "first": 2}, "cannot start at level 2; .* levels=1"),
        (one_shot_pruning, {"densities": [0.5], "retrain": "weights"}, "cannot retrain by 'weights'; choose one of we"),
        (one_shot_pruning, {"densities": [0.5], "retrain": "fine_tuning"}, "say with iterations how many"),
        (one_shot_pruning, {"densities": [], "rewind": 9, "iterations": 9}, "rewind=9 leaves none of iterations=9"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_is_trained(procedure, asked, message):
    train = Trainer()
    with pytest.raises(ValueError, match=message):
        next(procedure(train, tensors(initial()), ones(), **asked))
    assert train.calls == []


@procedures
@pytest.mark.parametrize("retrain", get_args(Retrain))
def test_what_is_rewound_by_hand(procedure, retrain):
    train, asked = Trainer(spoil=fill_with_nan), {"rewind": 4, "retrain": retrain, "iterations": END}
    found = procedure(train, tensors(initial()), ones(), densities=[0.8, 0.2, 0.0], **asked)
    assert in_lists_spoiling(found) == by_hand(4, [40, 10, 0], retrain, one_shot=procedure is one_shot_pruning)
    first, last = (END, END + END - 4) if retrain == "fine_tuning" else (4, None)
    assert train.calls == [(0, 4, 0), (4, None, 0), *((first, last, level) for level in (1, 2, 3))]
    assert train.remaining == [END, *[END - 4] * 4]


@pytest.mark.parametrize("floor", [0.0, 0.2, {"second": 0.5}])
def test_densities_are_exact_counts_of_the_first_masks_weights_and_go_with_a_floor(floor):
    sparse = Mask({"first": torch.arange(30) < 29, "second": torch.arange(20) < 18})
    densities = densities_to(0.31, rate=0.3)
    prune = partial(prune_lowest, floor=floor)
    asked = {"densities": densities, "prune": prune, "rewind": 2}
    found = [level.mask for level in iterative_magnitude_pruning(Trainer(), tensors(initial()), sparse, **asked)]
    assert found[0] == sparse
    assert [mask.survivors for mask in found] == [47, round(47 * 0.7), round(47 * 0.49), round(47 * 0.343), 15]
    least = {"first": 6, "second": 4} if floor == 0.2 else {"first": 0, "second": 10 if floor else 0}
    assert all(int(mask[name].sum()) >= count for mask in found for name, count in least.items())
    assert not any(bool((after[name] & ~before[name]).any()) for before, after in pairwise(found) for name in after)


def test_a_pruning_of_ones_own_gets_the_rate_of_its_density():
    def from_the_end(trained: dict[str, torch.Tensor], mask: Mask, rate: float) -> Mask:
        assert trained["updates_seen"].item() == END
        rates.append(rate)
        return Mask({"first": torch.arange(30) < round(mask.survivors * (1 - rate)) - 20, "second": mask["second"]})

    rates: list[float] = []
    asked = {"densities": [0.8, 0.8, 0.5], "prune": from_the_end}
    with pytest.warns(UserWarning, match="level 2 prunes nothing"):
        found = list(iterative_magnitude_pruning(Trainer(), tensors(initial()), ones(), **asked))
    assert [level.mask.survivors for level in found] == [50, 40, 40, 25]
    assert rates == pytest.approx([0.2, 0.0, 0.375])


def test_a_layer_that_pruning_empties_is_named_once_and_a_floor_keeps_it():
    weights = {"large": torch.arange(5.0, 15.0), "small": torch.tensor([1.0, 2.0]), "none": torch.zeros(0)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(iterative_magnitude_pruning(growing, weights, Mask.ones(weights), levels=3))
        list(one_shot_pruning(growing, weights, Mask.ones(weights), densities=[0.9, 0.5, 1.0]))
    assert [str(w.message)[:38] for w in caught] == [
        "level 1 has no weight left in small; a",
        "level 2 has no weight left in small; a",
    ]
    assert "prune=partial(prune_lowest, floor=0.01)" in str(caught[0].message)
    floored = partial(prune_lowest, floor=0.01)
    for procedure, asked in ((iterative_magnitude_pruning, {"levels": 3}), (one_shot_pruning, {"densities": [0.3]})):
        *_, last = procedure(growing, weights, Mask.ones(weights), prune=floored, **asked)
        assert last.mask["small"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("procedure", "asked", "level"),
    [
        (iterative_magnitude_pruning, {"levels": 2}, 2),
        (iterative_magnitude_pruning, {"densities": [0.67, 0.6]}, 2),
        (one_shot_pruning, {"densities": [0.4, 1.0, 0.9]}, 3),
    ],
)
def test_a_level_that_prunes_nothing_is_said_when_it_is_trained_and_not_when_it_is_loaded(procedure, asked, level):
    weights, kept = {"w": torch.tensor([1.0, 2.0, 3.0])}, Memory()
    said = f"^level {level} prunes nothing, and trains the mask of [23] weights"
    with pytest.warns(UserWarning, match=said) as caught:
        list(procedure(growing, weights, Mask.ones(weights), saved=kept, **asked))
    assert len(caught) == 1
    list(procedure(growing, weights, Mask.ones(weights), saved=kept, **asked))


@pytest.mark.parametrize(
    ("procedure", "asked", "same"),
    [(iterative_magnitude_pruning, {"levels": 4}, 4), (one_shot_pruning, {"densities": [0.8, 0.95]}, 2)],
)
def test_warnings_are_of_the_line_that_loops_over_the_search(procedure, asked, same):
    weights = {"large": torch.arange(1.0, 5.0), "small": torch.tensor([0.1])}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(procedure(growing, weights, Mask.ones(weights), **asked))
    said = ["level 1 has no weight left in small", f"level {same} prunes nothing"]
    assert [str(w.message)[: len(text)] for w, text in zip(caught, said, strict=True)] == said
    assert [(w.category, w.filename) for w in caught] == [(UserWarning, __file__)] * 2


@pytest.mark.parametrize(
    "returned",
    [torch.nn.Linear(2, 2), {"first": torch.zeros(30)}, ({1}, None), None],
    ids=lambda value: type(value).__name__,
)
def test_what_train_must_return_is_said(returned):
    with pytest.raises(ValueError, match=r"train returned \w+; expected two things, the weights"):
        list(iterative_magnitude_pruning(lambda *_: returned, tensors(initial()), ones(), levels=1))


@pytest.mark.parametrize(
    "returned", [lambda mask: dict(list(mask.items())[:1]), lambda mask: {"other": 1}, lambda _: None]
)
def test_a_pruning_that_leaves_layers_out_is_refused(returned):
    with pytest.raises(ValueError, match=r"prune returned .*; expected a mask of the layers \w+, "):
        list(
            iterative_magnitude_pruning(
                lambda ticket, stop: (ticket.weights, None), tensors(initial()), ones(), levels=1,
                prune=lambda weights, mask: returned(mask),
            )
        )  # fmt: skip
