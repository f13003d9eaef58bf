"""Which budget a loss is charged to, decided without a cluster."""

import pytest
from ray.train import ControllerError, FailureConfig, WorkerGroupError
from ray.train.v2._internal.execution.controller.state import PreemptingState, RunningState
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2.api.preemption import PreemptionInfo

from ray_lidarseg.runtime.leaving_nodes import LeavingNodes, Notices

COLLECTIVE = WorkerGroupError("workers failed", {0: RuntimeError("Connection closed by peer")})
NOTICE = PreemptingState(PreemptionInfo(deadline_ms=0, preempted_node_to_ranks={"node": [1]}), 0.0)


@pytest.fixture(autouse=True)
def notices():
    noted = Notices()
    yield noted
    noted.after_controller_state_update(None, RunningState())


def decisions(policy: LeavingNodes, error: Exception, times: int) -> list[bool]:
    return [policy.make_decision(error) == FailureDecision.RETRY for _ in range(times)]


def test_what_fails_without_a_notice_is_a_failure():
    assert decisions(LeavingNodes(FailureConfig(max_failures=1)), COLLECTIVE, 2) == [True, False]


def test_what_fails_while_a_loss_is_announced_is_that_loss(notices):
    policy = LeavingNodes(FailureConfig(max_failures=0, max_preemption_failures=2))
    notices.after_controller_state_update(RunningState(), NOTICE)
    assert decisions(policy, COLLECTIVE, 3) == [True, True, False]
    notices.after_controller_state_update(NOTICE, RunningState())
    assert decisions(policy, COLLECTIVE, 1) == [False]  # the next one came without a notice


def test_errors_of_the_controller_stay_its_own(notices):
    notices.after_controller_state_update(RunningState(), NOTICE)
    policy = LeavingNodes(FailureConfig(max_failures=5, controller_failure_limit=5, max_preemption_failures=5))
    assert decisions(policy, ControllerError(ValueError("a bug")), 1) == [False]
