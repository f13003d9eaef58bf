from importlib import metadata

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime import doctor
from ray_lidarseg.sparse.products import Products


def test_one_problem_fails_the_whole_and_names_itself(monkeypatch, capsys):
    def no_ray():
        raise ResourceError("no Ray cluster answers")

    monkeypatch.setattr(doctor, "_ray", no_ray)
    assert doctor.main() == 1
    printed = capsys.readouterr().out
    assert "FAIL Ray              no Ray cluster answers" in printed
    assert f"torch {metadata.version('torch')}" in printed
    assert printed.count("\n") == 8


def test_all_well(monkeypatch):
    monkeypatch.setattr(doctor, "_ray", lambda: "fine")
    monkeypatch.setattr(doctor, "LEAST_FREE_GIB", 0.0)
    assert all(check.is_ok for check in doctor.doctor())
    assert doctor.main() == 0


def test_a_full_temporary_disk_is_noticed(monkeypatch):
    monkeypatch.setattr(doctor, "_ray", lambda: "fine")
    monkeypatch.setattr(doctor, "LEAST_FREE_GIB", 1e9)
    failed = [check for check in doctor.doctor() if not check.is_ok]
    assert [check.name for check in failed] == ["temporary disk"]
    assert "set TMPDIR" in failed[0].detail


def test_the_library_of_products_is_named_and_what_the_switch_would_bring(monkeypatch):
    found = Products("oneDNN", mkl_gflops=80.2, onednn_gflops=160.0, onednn_error=1e-7, bf16_gflops=320.0)
    monkeypatch.setattr(doctor, "measured", lambda: found)
    monkeypatch.setattr(doctor, "_WITH_MKL_SWITCH", "print(231)")
    line = doctor._products()
    assert line.startswith("float32 by oneDNN (GFLOP a CPU second and thread: MKL 80, oneDNN 160, bfloat16 320); ")
    assert "workers.mkl_as_on_intel=true makes it 231 by overwriting" in line
    monkeypatch.setattr(doctor, "_WITH_MKL_SWITCH", "raise SystemExit(1)")
    assert doctor._products().endswith("workers.mkl_as_on_intel cannot be set here")
    monkeypatch.setattr(doctor, "measured", lambda: Products("MKL", 160.0, 150.0, 1e-7, 320.0))
    assert "mkl_as_on_intel" not in doctor._products()
