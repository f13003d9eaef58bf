"""The verb `export` on a run folder: the ONNX file."""

from pathlib import Path

import pytest
import torch

from ray_lidarseg import export as verb
from ray_lidarseg.cli import main
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import RunError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.run_folder import RunFolder

SMALL = {"name": "fidnet", "height_px": 8, "width_px": 32, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}


@pytest.fixture
def run(tmp_path: Path) -> str:
    recipe = override(Recipe(), {"data.dataset": "nuscenes", "model": SMALL, "method.name": "mean_teacher"})
    torch.manual_seed(0)
    method, folder = build_method(recipe, resolve_sensor(recipe.data), 16), RunFolder(str(tmp_path / "run"))
    folder.write("recipe.yaml", recipe.to_yaml().encode())
    state = checkpoints.pack({"step": 5, "method": method.state_dict(), "metrics": ""})
    folder.write(f"checkpoints/{checkpoints.folder_name(5)}/{checkpoints.FILE}", state)
    return folder.uri


def test_the_file_is_an_onnx_graph_of_the_model_to_deploy(run, tmp_path, capsys, monkeypatch):
    onnx = pytest.importorskip("onnx", reason="needs the packages of the extra onnx")
    out = tmp_path / "out" / "model.onnx"
    assert main(["export", run, "--out", str(out.parent), "--format", "onnx"]) == 0
    assert "5 steps" in (said := capsys.readouterr().out)
    assert "onnxruntime's logits are within" in said
    graph = onnx.load(str(out)).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["range_image", "logits"]
    monkeypatch.setattr(verb, "largest_difference", lambda *_: float("nan"))
    out.unlink()
    with pytest.raises(RunError, match="differ from the model's by up to nan"):
        verb.export_onnx(run, str(out.parent))
    assert not out.exists()
