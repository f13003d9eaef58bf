"""A pool of actors that each load a model once, fed with small groups of rows by Ray Data.

Only rows travel: which frame to read, and what came out. Points go from file to model inside an actor.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime.cluster import num_gpus, require, worker_runtime_env
from ray_lidarseg.runtime.deaths import deaths_untold

if TYPE_CHECKING:
    import torch

_RETRIES = 2  # of a group whose process died; a scan that kills it every time must not loop for ever
_GROW_AT = 1.0  # groups an actor; Ray Data's own 1.75 is never reached with one at hand, and no pool would grow
_ADVICE = (
    "ask for fewer actors (--actors MIN:MAX) or less for each (--gpus, --cpus), or add nodes",
    "wait for it to end, or run without GPUs (--gpus 0)",
)


@dataclass(frozen=True)
class Actors:
    """How many actors a pool has and what each gets.

    Attributes:
        min_size: Actors it starts with and never goes below.
        max_size: Actors it grows to while all are busy; 0: as many as the cluster holds now.
        num_cpus: CPUs of each.
        num_gpus: GPUs of each, a share of one is allowed; None: 1 where the cluster has GPUs.
    """

    min_size: int = 1
    max_size: int = 0
    num_cpus: float = 1.0
    num_gpus: float | None = None

    @staticmethod
    def of(sizes: str = "", cpus: float = 1.0, gpus: str = "auto") -> "Actors":
        """From the command line: ``--actors MIN:MAX`` (or one number), ``--cpus`` and ``--gpus`` of each actor.

        Raises:
            ResourceError: Not numbers, or no such sizes.
        """
        low, _, high = sizes.partition(":")
        try:
            smallest, largest = (int(low), int(high or low)) if sizes else (1, 0)
            share = None if gpus == "auto" else float(gpus)
        except ValueError as error:
            raise ResourceError(
                f"expected --actors MIN:MAX, such as 1:8, and --gpus auto or a number: {error}"
            ) from None
        are_shares = 0 < cpus < math.inf and 0 <= (share or 0) < math.inf  # NaN is neither
        if smallest < 1 or (sizes and largest < smallest) or not are_shares:
            raise ResourceError(
                f"--actors {sizes or '1:'} --cpus {cpus:g} --gpus {gpus}: expected 1 <= MIN <= MAX, CPUs above 0 and "
                "GPUs of 0 or more"
            )
        return Actors(smallest, largest, cpus, share)

    @property
    def gpus(self) -> float:
        """GPUs of each actor on the connected cluster."""
        if self.num_gpus is not None:
            return self.num_gpus
        return 1.0 if num_gpus() else 0.0

    @property
    def threads(self) -> int:
        """CPU threads each actor may keep busy."""
        return max(1, int(self.num_cpus))

    def without_gpu(self) -> "Actors":
        """The same pool for work that needs no GPU."""
        return replace(self, num_gpus=0.0)

    def require(self) -> None:
        """Checks that the connected cluster holds the smallest pool; Ray itself would wait for ever.

        Raises:
            ResourceError: It does not.
        """
        require(self.min_size, self.num_cpus, self.gpus, _ADVICE)

    def sizes(self, num_groups: int) -> tuple[int, int]:
        """Smallest and largest pool for so many groups; needs a connected Ray."""
        most = min(num_groups, max(self.min_size, self.max_size or _most_actors(self.num_cpus, self.gpus)))
        return min(self.min_size, most), most


def stream(
    rows: Sequence[Mapping[str, Any]],
    worker: type,
    arguments: Mapping[str, Any],
    group: int,
    actors: Actors = Actors(),
    at_hand: int = 1,
) -> Iterator[dict]:
    """Result rows of a pool of ``worker`` actors over ``rows``, in any order, as they come; Ray must be connected.

    A group whose process keeps dying, or whose node died while Ray did not know it yet, gives no result: the caller
    sees which rows are missing.

    Args:
        rows: Flat rows, all with the same columns.
        worker: ``worker(**arguments)`` loads the model; called with an Arrow table of ``group`` rows it returns an
            Arrow table of results and never raises.
        arguments: See above; small and picklable.
        group: Rows in one call.
        actors: Size of the pool and of its actors.
        at_hand: Groups an actor holds, the one it works on included. With one it waits after each until Ray Data has
            looked again, up to a tenth of a second; those that wait in an actor share the fate of one that kills it.
    """
    if not rows:
        return
    num_groups = -(-len(rows) // group)
    with quiet_data():
        mapped = _mapped(rows, worker, arguments, num_groups, actors, at_hand)
        for batch in mapped.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()


def stream_twice(
    rows: Sequence[Mapping[str, Any]],
    worker: type,
    arguments: Mapping[str, Any],
    group: int,
    key: str,
    keys_of: Callable[[dict], Collection[Any]],
) -> Iterator[dict]:
    """As ``stream``, with a group at hand beside the one in work where there are more than two; rows that gave no
    result are tried once more, each alone in its actor, unless none gave one.

    A row that kills its process takes along its group and the one at hand, and a node that dies what Ray hands to it
    until its heartbeats are missed.

    Args:
        rows: See ``stream``; so are ``worker``, ``arguments`` and ``group``.
        worker: See there.
        arguments: See there.
        group: Rows in one call of the first pass.
        key: Column that tells rows apart.
        keys_of: Which rows a result is of.
    """
    waiting = {row[key] for row in rows}

    def one_pass(size: int, at_hand: int) -> Iterator[dict]:
        left = [row for row in rows if row[key] in waiting]
        for result in stream(left, worker, arguments, size, at_hand=at_hand):
            waiting.difference_update(keys_of(result))
            yield result

    # of two groups a deadly one would take the other along, and none would give a result
    yield from one_pass(group, 2 if len(rows) > 2 * group else 1)
    if waiting and len(waiting) < len(rows):
        print(f"{len(waiting)} of {len(rows)} gave no result, their process or node died: once more", flush=True)
        yield from one_pass(1, 1)


def _mapped(
    rows: Sequence[Mapping[str, Any]],
    worker: type,
    arguments: Mapping[str, Any],
    num_groups: int,
    actors: Actors,
    at_hand: int,
) -> Any:
    import ray

    min_size, max_size = actors.sizes(num_groups)
    return ray.data.from_items(list(rows), override_num_blocks=num_groups).map_batches(
        worker,
        fn_constructor_kwargs=dict(arguments),
        batch_size=None,
        batch_format="pyarrow",
        # More than one at hand: a group that kills its actor uses up the retries of others that wait there, too.
        compute=ray.data.ActorPoolStrategy(min_size=min_size, max_size=max_size, max_tasks_in_flight_per_actor=at_hand),
        num_cpus=actors.num_cpus,
        num_gpus=actors.gpus,
        runtime_env=worker_runtime_env(),
        max_task_retries=_RETRIES,
    )


def own_device(num_threads: int = 1) -> torch.device:
    """The device of the actor that asks; torch keeps to as many threads as Ray gave it CPUs."""
    import torch

    torch.set_num_threads(num_threads)
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def _most_actors(cpus: float, gpus: float) -> int:
    import ray

    have, asked = ray.cluster_resources(), {"CPU": cpus, "GPU": gpus}
    return max(1, min(int(have.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items() if amount))


@contextmanager
def quiet_data() -> Iterator[None]:
    """The caller's progress bar instead of Ray's; a block whose process keeps dying is left out, not fatal."""
    import ray

    context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.max_errored_blocks, logger.level
    context.enable_progress_bars, context.max_errored_blocks = False, -1
    scaling, threshold = context.autoscaling_config, context.autoscaling_config.actor_pool_util_upscaling_threshold
    scaling.actor_pool_util_upscaling_threshold = _GROW_AT
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), deaths_untold("ray.data"):
            warnings.filterwarnings("ignore", message=".*ray_remote_args")  # Ray 2.60 has no other door for retries
            yield
    finally:
        context.enable_progress_bars, context.max_errored_blocks = before[:2]
        scaling.actor_pool_util_upscaling_threshold = threshold
        logger.setLevel(before[2])
