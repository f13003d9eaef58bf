from pathlib import Path
from typing import Any

import pytest

from ray_lidarseg.runtime import doctor, node_checks
from ray_lidarseg.runtime.node_checks import NodeReport, judged, look

VERSIONS = {
    "ray-lidarseg": "1",
    "python": "3.11.7",
    "torch": "2.12.1",
    "ray": "2.60.0",
    "numpy": "1.26",
    "pyarrow": "25",
}


def faults(resources: dict[str, float] | None = None, **differing: Any) -> list[str]:
    """Of a node that was asked at second 100 and had answered at 103."""
    report = NodeReport(**{"host": "n1", "clock_s": 102.0, "versions": VERSIONS, "gpus": [], **differing}, **REST)
    found = judged("10.0.0.1", resources or {"CPU": 4.0}, report, 100.0, 103.0, VERSIONS)
    assert found[0].is_ok == (len(found) == 1)
    return [check.detail for check in found[1:]]


REST: dict[str, Any] = {"backends": ["torch"], "free_gib": 50.0}


def test_a_healthy_node_is_one_line() -> None:
    report = NodeReport("n1", 102.0, VERSIONS, ["H200", "H200"], ["torch", "torchsparse"], 50.0)
    found = judged("10.0.0.1", {"CPU": 16.0, "GPU": 2.0}, report, 100.0, 103.0, VERSIONS)
    assert [(check.name, check.is_ok) for check in found] == [("10.0.0.1", True)]
    assert found[0].detail == "n1: 16 CPU, 2 GPU (H200), 50 GiB free, torch 2.12.1, sparse torch torchsparse"


def test_other_versions_are_named_with_the_fix() -> None:
    (fault,) = faults(versions={**VERSIONS, "torch": "2.11.0"})
    assert fault.startswith("torch 2.11.0 there, 2.12.1 here: use one image, or install the pins")


def test_gpus_that_torch_does_not_see() -> None:
    (fault,) = faults({"CPU": 4.0, "GPU": 2.0}, gpus=["H200"])
    assert fault.startswith("Ray counts 2 GPU, torch sees 1: install a torch for the CUDA of its driver")


@pytest.mark.parametrize(("clock_s", "said"), [(102.0, ""), (107.9, ""), (109.0, "6 s off"), (80.0, "20 s off")])
def test_a_clock_is_wrong_by_at_least_what_it_lies_outside_of_question_and_answer(clock_s: float, said: str) -> None:
    found = faults(clock_s=clock_s)
    assert said in "".join(found)
    assert bool(found) == bool(said)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_checks, "LEAST_FREE_GIB", 60.0)
    assert "set TMPDIR before `ray start`" in faults()[0]


def test_storage_and_checkpoints_are_tried_where_the_task_runs(tmp_path: Path) -> None:
    shared, other, weights = tmp_path / "shared", tmp_path / "other", tmp_path / "sam.pth"
    for folder in (shared, other):
        folder.mkdir()
    (shared / "mark").touch()
    weights.write_bytes(b"weights")
    (tmp_path / "empty").touch()
    (tmp_path / "file").touch()
    assert look([str(shared)], [str(weights)], "mark").faults == []
    first, second, third, fourth = look(
        [str(other), str(tmp_path / "file/x")], [str(tmp_path / "absent"), str(tmp_path / "empty")], "mark"
    ).faults
    assert first == f"{other} is another folder here than for the driver: mount it on all nodes, or use s3://"
    assert second.startswith(f"cannot write {tmp_path}/file/x")
    assert third.startswith(f"cannot read {tmp_path}/absent: ")
    assert "put it where every node reads it" in third
    assert fourth == f"{tmp_path}/empty is empty: copy it again"


def test_a_node_without_the_package_is_told_from_one_that_is_broken() -> None:
    missing = RuntimeError("while unpickling:\nModuleNotFoundError: No module named 'ray_lidarseg'\n")
    assert node_checks._why(missing).startswith("no module 'ray_lidarseg' there: install the package on every node")
    assert node_checks._why(OSError("lost\nmore")) == "OSError: lost"


def test_the_status_says_whether_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.show([doctor.Check("10.0.0.1", True, "n1: fine")]) == 0
    assert doctor.show([doctor.Check("10.0.0.1", False, "its clock is off")]) == 1
    assert capsys.readouterr().out == "ok   10.0.0.1  n1: fine\nFAIL 10.0.0.1  its clock is off\n"
