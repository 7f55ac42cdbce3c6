from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch

from lth_study.networks import initial_weights
from lth_study.presets import preset
from lth_study.seeds import dropout_stream, epoch_order, seeded, stream


def drawn(*name: int | str) -> tuple[int, ...]:
    return tuple(torch.randint(0, 2**60, (4,), generator=stream(*name)).tolist())


def test_the_same_name_gives_the_same_numbers_whatever_was_drawn_before_and_leaves_torchs_generator_alone():
    first = drawn(1, "order", 0, 3)
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    drawn(1, "order", 0, 2)
    epoch_order(1, 0, 0, 10)
    assert torch.rand(3).tolist() == expected
    assert drawn(1, "order", 0, 3) == first


def test_replicates_purposes_and_indices_all_have_streams_of_their_own():
    """Indices are neither joined nor swapped: 1 and 12, and 11 and 2, are other streams."""
    names = [
        *product(range(1, 14), ["init", "reinit", "random pruning", "order"]),
        *product(range(1, 6), ["order", "random pruning"], range(4), range(13)),
        *product(range(1, 12), ["order"], range(13)),
    ]
    assert len({drawn(*name) for name in names}) == len(names)


def test_epochs_orders_and_replicates_are_visited_differently():
    orders = {
        tuple(epoch_order(replicate, order, epoch, 60).tolist())
        for replicate, order, epoch in product(range(1, 5), range(4), range(5))
    }
    assert len(orders) == 4 * 4 * 5


def test_streams_data_orders_and_initial_weights_are_those_the_records_were_made_with():
    assert stream(1, "init").initial_seed() == 11711458893329888985
    assert stream(1, "order", 0, 0).initial_seed() == 9878034800127601907
    assert torch.randint(0, 1000, (4,), generator=stream(3, "order", 2, 7)).tolist() == [805, 630, 502, 936]
    assert epoch_order(1, 0, 0, 10).tolist() == [4, 9, 2, 3, 8, 1, 5, 7, 0, 6]
    assert epoch_order(1, 0, 0, 55_000)[:5].tolist() == [36724, 45072, 32024, 696, 40052]
    weights = initial_weights(preset("lenet_300_100").setting, stream(1, "init"))
    expected = [0.01611296832561493, -0.006845918018370867, -0.047907087951898575]
    assert weights["fc1.weight"][0, :3].tolist() == pytest.approx(expected, rel=1e-6)


def test_threads_take_turns_with_torchs_own_random_numbers():
    def draw(seed: int) -> list[float]:
        with seeded(seed):
            return [float(torch.rand(1)) for _ in range(200)]

    before = torch.random.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        drawn_together = list(threads.map(draw, range(8)))
    assert torch.equal(torch.random.get_rng_state(), before)
    for seed, numbers in enumerate(drawn_together):
        generator = torch.Generator().manual_seed(seed)
        assert numbers == [float(torch.rand(1, generator=generator)) for _ in range(200)]


def test_dropout_draws_other_numbers_for_every_replicate_order_iteration_and_rank():
    def drawn(*which: int) -> float:
        with dropout_stream(*which):
            return float(torch.rand(1, dtype=torch.float64))

    every = [drawn(*which) for which in product((1, 2), (0, 1), (0, 1, 2), (0, 1))]
    assert len(set(every)) == 2 * 2 * 3 * 2
    assert every[0] == drawn(1, 0, 0)
