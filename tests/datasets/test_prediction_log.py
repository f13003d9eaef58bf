"""The list of labelled scans: what is written is read, a torn line costs its scan, points add up."""

import urllib.request

import pytest

from ray_lidarseg import storage
from ray_lidarseg.datasets import prediction_log
from ray_lidarseg.datasets.origin import Origin
from ray_lidarseg.datasets.prediction_log import LOG_NAME, LabelledScan, PredictionLog, read_log
from ray_lidarseg.storage.stamps import Stamp
from tests.storage.s3_server import Faults, s3_server, variables


@pytest.fixture(scope="module")
def bucket():
    pytest.importorskip("moto.server", reason="needs the moto package's S3 server")
    with s3_server(Faults()) as endpoint:
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/logs", method="PUT")).close()
        yield endpoint


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path, monkeypatch):
    if request.param == "local":
        return str(tmp_path / "out")
    for name, value in variables(request.getfixturevalue("bucket")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(prediction_log, "_UPLOAD_EVERY_S", 0.0)
    return f"s3://logs/{tmp_path.name}"


def scan(number: int, *num_points: int) -> LabelledScan:
    origin = Origin({f"{number}.bin": Stamp(7, (1, 2), "aa")}, {"columns": "4"})
    return LabelledScan(f"f{number}", f"{number}.label", num_points, origin)


def test_each_scan_is_on_disk_as_soon_as_it_is_added(folder):
    assert read_log(folder) == {}
    with PredictionLog(folder, [scan(0, 1, 2)]) as log:
        assert read_log(folder) == {"0.label": scan(0, 1, 2)}
        log.add(scan(1, 0, 5))
        log.add(scan(1, 4, 1))
        assert read_log(folder) == {"0.label": scan(0, 1, 2), "1.label": scan(1, 4, 1)}
        assert log.points_by_class() == {0: 5, 1: 3}
    assert read_log(folder) == log.scans
    with PredictionLog(folder, [scan(1, 4, 1)]):  # the others are not there any more
        pass
    assert list(read_log(folder)) == ["1.label"]


@pytest.mark.parametrize(
    "line", ['{"frame_id": "f1", "la', "[]", "3", "{}", '{"frame_id": 1, "labels": 2, "origin": 3}']
)
def test_a_line_that_is_none_costs_its_scan(tmp_path, line):
    text = scan(0, 1).to_line() + line + "\n" + scan(2, 1).to_line()
    storage.write_bytes(f"{tmp_path}/{LOG_NAME}", text.encode() + b"\xff{")
    assert list(read_log(str(tmp_path))) == ["0.label", "2.label"]
