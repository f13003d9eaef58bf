"""A whole run whose data and folder lie in a bucket, through an outage of the store."""

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.recipe.load import override
from ray_lidarseg.training.run_folder import RunFolder, load_method
from tests.ray.train_driver import DRIVER, results
from tests.storage.s3_server import Faults, s3_server, variables

pytestmark = pytest.mark.ray
_OUTAGE_S = 6.0
_SECRET = "never-to-be-seen"


def test_a_run_in_a_bucket_waits_for_a_store_that_is_down_and_no_number_changes(
    undisturbed, prepared, tiny, tmp_path, monkeypatch
):
    pytest.importorskip("moto.server", reason="needs the moto package's S3 server")
    faults = Faults()
    with s3_server(faults) as endpoint:
        for name, value in {**variables(endpoint), "AWS_SECRET_ACCESS_KEY": _SECRET}.items():
            monkeypatch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/logs", method="PUT")).close()
        for file in Path(prepared).iterdir():
            storage.write_bytes(f"s3://logs/prepared/{file.name}", file.read_bytes())
        recipe = override(tiny, {"data.prepared": "s3://logs/prepared"})
        (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
        command = [sys.executable, "-c", DRIVER, str(tmp_path / "recipe.yaml"), "s3://logs/runs/one"]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert driver.stdout is not None
        said = []
        for line in driver.stdout:
            said.append(line)
            if "step 7/20" in line:
                faults.is_down = True
                time.sleep(_OUTAGE_S)
                faults.is_down = False
        assert driver.wait(timeout=200) == 0, "".join(said)
        assert results("s3://logs/runs/one") == results(undisturbed)
        run = RunFolder("s3://logs/runs/one")
        assert run.is_finished()
        assert load_method(run.uri, "best")[2] == run.best_step()
        filesystem, folder = storage.resolve(run.uri)
        names = [info.path for info in filesystem.get_file_info(fs.FileSelector(folder, recursive=True))]
        assert any("tensorboard/events" in name for name in names)
        written = [storage.read_bytes(run.path(name)) for name in ("recipe.yaml", "manifest.json", "metrics.jsonl")]
        assert _SECRET not in "".join(said) + b"".join(written).decode()
