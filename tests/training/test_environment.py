"""What a manifest says of versions and the machine."""

from importlib import metadata

from ray_lidarseg.training import environment


def test_versions_name_what_decides_a_result():
    found = environment.versions()
    assert found["torch"] == metadata.version("torch")
    assert found.get("git_commit", "") == environment.git_commit()


def test_a_package_outside_a_checkout_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "package" / "training" / "environment.py"))
    assert environment.git_commit() == ""
    assert "git_commit" not in environment.versions()


def test_hardware_is_plain_data():
    found = environment.hardware()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0.1
    assert isinstance(found["gpus"], list)
