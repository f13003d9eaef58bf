from importlib import metadata

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime import doctor


def test_one_problem_fails_the_whole_and_names_itself(monkeypatch, capsys):
    def no_ray():
        raise ResourceError("no Ray cluster answers")

    monkeypatch.setattr(doctor, "_ray", no_ray)
    assert doctor.main() == 1
    printed = capsys.readouterr().out
    assert "FAIL Ray              no Ray cluster answers" in printed
    assert f"torch {metadata.version('torch')}" in printed
    assert printed.count("\n") == 7


def test_all_well(monkeypatch):
    monkeypatch.setattr(doctor, "_ray", lambda: "fine")
    monkeypatch.setattr(doctor, "_LEAST_FREE_GIB", 0.0)
    assert all(check.is_ok for check in doctor.doctor())
    assert doctor.main() == 0


def test_a_full_temporary_disk_is_noticed(monkeypatch):
    monkeypatch.setattr(doctor, "_ray", lambda: "fine")
    monkeypatch.setattr(doctor, "_LEAST_FREE_GIB", 1e9)
    failed = [check for check in doctor.doctor() if not check.is_ok]
    assert [check.name for check in failed] == ["temporary disk"]
    assert "set TMPDIR" in failed[0].detail
