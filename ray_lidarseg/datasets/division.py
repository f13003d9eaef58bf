"""Who computes which scans of a step: the global batch as micro-batches, and these on workers.

With a fixed number of workers that divides the batch, worker r of W takes slots r, r + W, … and cuts them into
micro-batches. Where the number may change, or does not divide, the step itself is cut into micro-batches, and workers
take whole ones in turn: any number of them computes the same micro-batches, so the same step up to the order of sums.
Source: ours.
"""

from collections.abc import Sequence

from ray_lidarseg.recipe.schema import Recipe

Slots = tuple[Sequence[int], Sequence[int]]
"""Slots of the labelled and of the unlabelled stream in one micro-batch."""


def slots_of(
    recipe: Recipe, sizes: tuple[int, int], rank: int, world_size: int, same_count: bool = False
) -> list[Slots]:
    """The micro-batches of one worker.

    Args:
        recipe: ``train.micro_batch``, and whether ``workers.num_workers`` is elastic.
        sizes: Scans of each stream in a step, over all workers.
        rank: The worker.
        world_size: W, at most the scans of either stream that is read.
        same_count: Whether every worker must have equally many micro-batches, as batch norms that are synchronised in
            each forward do; a micro-batch may then be up to twice as large where the batch does not divide.
    """
    micro_batch = recipe.train.micro_batch
    if not recipe.is_elastic:
        mine = [range(rank, size, world_size) for size in sizes]
        return _cut(mine, max(1, _ceil(max(map(len, mine)), micro_batch)))
    longest = max(sizes)
    parts = max(world_size, _ceil(longest, micro_batch))
    if same_count:
        parts = world_size * min(_ceil(parts, world_size), longest // world_size)
    return _cut([range(size) for size in sizes], parts)[rank::world_size]


def seed_words(recipe: Recipe, rank: int, world_size: int, micro: int) -> tuple[int, int]:
    """What tells the random draws of one micro-batch from those of all others of its step."""
    return (0, rank + world_size * micro) if recipe.is_elastic else (rank, micro)


def _cut(streams: list[range], parts: int) -> list[Slots]:
    cuts = [
        [stream[k * len(stream) // parts : (k + 1) * len(stream) // parts] for k in range(parts)] for stream in streams
    ]
    return list(zip(*cuts, strict=True))


def _ceil(count: int, size: int) -> int:
    """Parts of at most ``size``; one where it is 0."""
    return -(-count // size) if size else 1
