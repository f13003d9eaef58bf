from pathlib import Path

import pytest

from ray_lidarseg.runtime.node_checks import check_nodes

pytestmark = pytest.mark.ray


def test_every_node_is_asked(local_ray: None, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    driver, node, fault = check_nodes([str(tmp_path), str(tmp_path / "file/x")], [str(tmp_path / "absent.pth")])
    assert (driver.name, node.name) == ("driver", fault.name)
    assert driver.detail.startswith(f"cannot write {tmp_path}/file/x")
    assert "4 CPU" in node.detail
    assert "put it where every node reads it" in fault.detail
    assert not any(check.is_ok for check in (driver, node, fault))
    assert not list(tmp_path.glob("doctor-*")), "the mark stays"
    assert [check.is_ok for check in check_nodes([str(tmp_path)])] == [True]
