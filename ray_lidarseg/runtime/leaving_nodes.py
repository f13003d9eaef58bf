"""A node that was announced to go is no failure of the training: it counts among ``workers.max_preemptions`` alone.

Ray Train has a budget of its own for such losses, and misses most of them: when the node goes, the ranks on other nodes
fail in the collective they share with it, seconds before anybody knows that an actor has died, and this failure is
charged to ``max_failures`` (Ray 2.60; with grace periods of 0 and 30 s alike). Here what fails while the controller
waits for an announced loss is that loss. A fault of the code that falls into the same seconds comes again, without a
notice, and counts then: Ray's own reasoning for the errors it does recognise.
"""

from typing import Any

from ray.train import PreemptionError, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision

_waiting: list[PreemptingState] = []
"""In the controller's process: the notice it waits for, if any. Its callback and its policy share nothing else."""


class Notices(ControllerCallback):
    """Notes what the controller waits for."""

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray at every change of state, and after the failure policy was asked."""
        _waiting[:] = [current_state] if isinstance(current_state, PreemptingState) else []


class LeavingNodes(DefaultFailurePolicy):
    """Ray's policy, which is told of a loss what was announced of it."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Whether to go on; failed workers count as a loss while one is announced."""
        if _waiting and isinstance(training_failed_error, WorkerGroupError):
            training_failed_error = PreemptionError(_waiting[0].preemption_info)
        return super().make_decision(training_failed_error)
