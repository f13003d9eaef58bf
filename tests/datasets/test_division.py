"""Who computes which scans of a step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lidarseg.datasets.division import seed_words, slots_of
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe


def _recipe(workers: object, micro_batch: int, labelled: int = 6, unlabelled: int = 6) -> Recipe:
    sizes = {"train.labelled_per_step": labelled, "train.unlabelled_per_step": unlabelled}
    changes = {"method.name": "mean_teacher", "workers.num_workers": workers, "train.micro_batch": micro_batch}
    return override(Recipe(), changes | sizes)


def _lists(recipe: Recipe, rank: int, world: int, same_count: bool = False) -> list[tuple[list[int], list[int]]]:
    sizes = (recipe.train.labelled_per_step, recipe.train.unlabelled_per_step)
    return [(list(one), list(other)) for one, other in slots_of(recipe, sizes, rank, world, same_count)]


def test_a_fixed_number_that_divides_takes_every_wth_scan():
    assert _lists(_recipe(2, 0), 1, 2) == [([1, 3, 5], [1, 3, 5])]
    assert _lists(_recipe(2, 2), 1, 2) == [([1], [1]), ([3, 5], [3, 5])]
    assert seed_words(_recipe(2, 2), rank=1, world_size=2, micro=1) == (1, 1)


def test_an_elastic_number_takes_whole_micro_batches_in_turn():
    recipe = _recipe([1, 3], 2)
    one = [([0, 1], [0, 1]), ([2, 3], [2, 3]), ([4, 5], [4, 5])]
    assert _lists(recipe, 0, 1) == one
    assert [_lists(recipe, rank, 2) for rank in (0, 1)] == [[one[0], one[2]], [one[1]]]
    assert [_lists(recipe, rank, 3) for rank in (0, 1, 2)] == [[part] for part in one]
    assert seed_words(recipe, rank=1, world_size=2, micro=1) == (0, 3)


def test_a_number_that_does_not_divide_is_elastic():
    assert not _recipe(3, 1).is_elastic
    assert _recipe(4, 1).is_elastic
    assert _recipe(4, 0, 4, 6).is_elastic
    assert _lists(_recipe(4, 0), 3, 4) == [([4, 5], [4, 5])]


def test_norms_that_are_synchronised_in_each_forward_get_equally_many_on_every_worker():
    recipe = _recipe([1, 4], 1)
    assert [len(_lists(recipe, rank, 4)) for rank in range(4)] == [2, 2, 1, 1]
    assert [_lists(recipe, rank, 4, same_count=True) for rank in range(4)] == [
        [([0], [0])],
        [([1, 2], [1, 2])],
        [([3], [3])],
        [([4, 5], [4, 5])],
    ]


@given(
    world=st.integers(1, 6),
    micro_batch=st.integers(0, 4),
    labelled=st.integers(6, 13),
    unlabelled=st.integers(6, 13),
    same_count=st.booleans(),
)
def test_every_slot_is_computed_once(world, micro_batch, labelled, unlabelled, same_count):
    recipe = _recipe([1, 6], micro_batch, labelled, unlabelled)
    ranks = [_lists(recipe, rank, world, same_count) for rank in range(world)]
    for stream, size in enumerate((labelled, unlabelled)):
        assert sorted(slot for parts in ranks for part in parts for slot in part[stream]) == list(range(size))
    counts = {len(parts) for parts in ranks}
    assert max(counts) - min(counts) <= (0 if same_count else 1)
    assert all(all(part) for parts in ranks for part in parts)  # each weighs its whole loss: it needs both streams
    largest = max(len(stream) for parts in ranks for part in parts for stream in part)
    shorter, longer = sorted((labelled, unlabelled))
    limit = max(micro_batch, -(-longer // shorter))
    assert not micro_batch or largest <= limit * (2 if same_count else 1)
    words = [seed_words(recipe, rank, world, micro) for rank in range(world) for micro in range(len(ranks[rank]))]
    assert sorted(words) == [(0, number) for number in range(len(words))] or same_count


@pytest.mark.parametrize("workers", [1, [1, 2]])
def test_the_shorter_stream_is_in_every_micro_batch(workers):
    assert _lists(_recipe(workers, 2, 2, 6), 0, 1) == [([0], [0, 1, 2]), ([1], [3, 4, 5])]
    assert _lists(_recipe(1, 1, 1, 4), 0, 1) == [([0], [0, 1, 2, 3])]
    recipe = _recipe(1, 1, 3, 0)
    assert slots_of(recipe, (3, 0), 0, 1) == [(range(k, k + 1), range(0)) for k in range(3)]
    assert slots_of(recipe, (0, 0), 0, 1) == [(range(0), range(0))]


def test_a_worker_of_several_cuts_its_own_scans_alike():
    assert _lists(_recipe(2, 1, 2, 6), 1, 2) == [([1], [1, 3, 5])]


def test_one_worker_computes_the_same_in_either_way():
    alone = [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [3, 4, 5])]
    assert _lists(_recipe(1, 4), 0, 1) == _lists(_recipe([1, 3], 4), 0, 1) == alone
