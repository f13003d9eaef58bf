import os
import signal
import subprocess
import sys

import pytest

from ray_lidarseg.runtime.interrupts import Terminated, interruptible, status_of

WORK = """
import os, signal, sys, time
from ray_lidarseg.cli import main
import ray_lidarseg.report.page as page

def work(*arguments, **named):
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
        if sys.argv[1] == "slow":
            time.sleep(60)

page.report = work
if sys.argv[1] == "ignoring":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.exit(main(["report", "a"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_verb_with_one_sentence_and_its_status(number: int, status: int) -> None:
    worker = _started("quick")
    worker.send_signal(number)
    out, err = worker.communicate(timeout=30)
    assert worker.returncode == status
    assert out == "cleaned up\n"
    assert err == "ray-lidarseg report: interrupted; the same command continues\n"


def test_the_second_signal_ends_at_once() -> None:
    worker = _started("slow")
    worker.send_signal(signal.SIGTERM)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "cleaned up\n"
    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=10)
    assert worker.returncode == 130
    assert err == "ray-lidarseg report: interrupted; the same command continues\n"


def test_what_the_shell_ignores_stays_ignored() -> None:
    worker = _started("ignoring")
    worker.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.5)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=30)
    assert worker.returncode == 143


def test_handlers_of_before_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible("bye"):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_status_is_the_shells() -> None:
    assert status_of(KeyboardInterrupt()) == 130
    assert status_of(Terminated()) == 143


def _started(mode: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WORK, mode]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "at work\n"
    return worker


def test_a_signal_is_known_by_its_number_when_its_exception_became_another():
    code = """
import os, signal, sys
from ray_lidarseg.runtime.interrupts import interruptible, status_of
try:
    with interruptible(""):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None
except KeyboardInterrupt as error:
    sys.exit(status_of(error))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 143
