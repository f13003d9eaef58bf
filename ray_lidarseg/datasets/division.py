"""Who computes which scans of a step: the global batch as micro-batches, and these on workers.

With a fixed number of workers that divides the batch, worker r of W takes slots r, r + W, … and cuts them into
micro-batches. Where the number may change, or does not divide, the step itself is cut into micro-batches, and workers
take whole ones in turn: any number of them computes the same micro-batches, so the same step up to the order of sums.

Every micro-batch holds scans of each stream that is read: it counts by its share of all scans, with all of its loss, so
one without a labelled scan would take weight from the supervised terms. Where the streams differ in length there are
thus at most as many micro-batches as the shorter one has scans: fewer, larger ones than ``train.micro_batch`` says.
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
        recipe: ``train.micro_batch``, exceeded where the streams differ too much in length (see above), and whether
            ``workers.num_workers`` is elastic.
        sizes: Scans of each stream in a step, over all workers.
        rank: The worker.
        world_size: W, at most the scans of either stream that is read.
        same_count: Whether every worker must have equally many micro-batches, as batch norms that are synchronised in
            each forward do; a micro-batch may then be up to twice as large where the batch does not divide.
    """
    micro_batch = recipe.train.micro_batch
    if not recipe.is_elastic:
        mine = [range(rank, size, world_size) for size in sizes]
        return _cut(mine, max(1, _parts([len(stream) for stream in mine], micro_batch)))
    parts = max(world_size, _parts(sizes, micro_batch))
    if same_count:
        parts = world_size * min(_ceil(parts, world_size), _shortest(sizes) // world_size)
    return _cut([range(size) for size in sizes], parts)[rank::world_size]


def seed_words(recipe: Recipe, rank: int, world_size: int, micro: int) -> tuple[int, int]:
    """What tells the random draws of one micro-batch from those of all others of its step."""
    return (0, rank + world_size * micro) if recipe.is_elastic else (rank, micro)


def _cut(streams: list[range], parts: int) -> list[Slots]:
    cuts = [
        [stream[k * len(stream) // parts : (k + 1) * len(stream) // parts] for k in range(parts)] for stream in streams
    ]
    return list(zip(*cuts, strict=True))


def _parts(sizes: Sequence[int], micro_batch: int) -> int:
    """So many that each stream gives at most ``micro_batch`` scans, but no more than all that are read can fill."""
    return min(_ceil(max(sizes), micro_batch), _shortest(sizes))


def _shortest(sizes: Sequence[int]) -> int:
    """Scans of the shorter stream that is read; 0 where none is."""
    return min((size for size in sizes if size), default=0)


def _ceil(count: int, size: int) -> int:
    """Parts of at most ``size``; one where it is 0."""
    return -(-count // size) if size else 1
