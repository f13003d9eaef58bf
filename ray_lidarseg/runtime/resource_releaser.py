"""Gives back the resources of a training whose driver was ended while its job goes on, as Ray Tune ends a trial.

Ray Train has an actor for this, which asks Ray's State API whether the controller lives. That takes a dashboard, and
picks a foreign instance where several run on a machine; without it the workers' place is taken for ever. The table of
actors that every process of Ray can read says the same (Ray 2.60).
"""

from typing import Any

from ray._private import state
from ray.train.v2._internal.callbacks import placement_group_callback
from ray.train.v2._internal.execution.controller import placement_group_cleaner


class ResourceReleaser(placement_group_callback.PlacementGroupCleanerCallback):
    """Ray Train's callback for it, in the controller, with an actor that needs no dashboard."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Starts the actor."""
        placement_group_callback.PlacementGroupCleaner = _Watch
        super().after_controller_start(train_run_context)


class _Watch(placement_group_cleaner.PlacementGroupCleaner):
    """The actor: it outlives the controller by what freeing its workers takes."""

    def _monitor_loop(self) -> None:
        placement_group_cleaner.is_actor_alive = _is_alive
        super()._monitor_loop()


def _is_alive(actor_id: str, timeout: float) -> bool:
    said = state.actors(actor_id)
    return bool(said) and said["State"] != "DEAD"
