"""The page of predictions in 3-D: what lies in it, and what a browser without a network makes of it."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.nuscenes import CLASSES
from ray_lidarseg.datasets.origin import Origin
from ray_lidarseg.datasets.prediction_log import LabelledScan
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.submission import confidence_bytes, label_bytes
from ray_lidarseg.datasets.work_list import Uncertainty
from ray_lidarseg.errors import DataError
from ray_lidarseg.report.view_page import view
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.types import IGNORE

NUM_POINTS = 300
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def keyframe(number: int) -> Keyframe:
    """Points in front of a camera that looks along y: classes 0 … 3 in turn, every tenth one unlabelled."""
    rng = np.random.default_rng(number)
    points = np.column_stack(
        [rng.uniform(-5, 5, NUM_POINTS), rng.uniform(8, 20, NUM_POINTS), rng.uniform(-2, 2, NUM_POINTS)]
    )
    labels = (np.arange(NUM_POINTS) % 4).astype(np.uint8)
    labels[::10] = IGNORE
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), (90, 120, 150)).save(buffer, format="png")
    cam_SE3_lidar = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    intrinsics = np.array([[32, 0, 32], [0, 32, 16], [0, 0, 1]], float)
    camera = CameraImage("CAM_FRONT", "", intrinsics, cam_SE3_lidar, 0, 64, 32, buffer.getvalue())
    broken = replace(camera, name="CAM_BACK", image=b"no picture")
    intensity = np.full((NUM_POINTS, 1), 0.5)
    return Keyframe(
        f"f{number}", "nuscenes", "drive", "val", number, "x.bin", "x.label",
        np.hstack([points, intensity]).astype(np.float32), labels, cameras=(broken, camera),
    )  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> str:
    """Three labelled scans; the model says class 0 everywhere, and is the less certain the higher the number."""
    folder = tmp_path_factory.mktemp("said")
    frames = [keyframe(number) for number in range(3)]
    frames[1] = replace(frames[1], cameras=())
    write_shard(fs.LocalFileSystem(), str(folder / "prepared"), frames)
    write_catalog(fs.LocalFileSystem(), str(folder / "prepared"))
    lines = []
    for number, frame in enumerate(frames):
        path = f"lidarseg/val/{frame.frame_id}_lidarseg.bin"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(label_bytes(np.zeros(NUM_POINTS, np.uint8), CLASSES, "lidarseg"))
        sure = np.full(NUM_POINTS, 1 - number / 10)
        (folder / path).with_suffix(".confidence.npy").write_bytes(confidence_bytes(sure))
        doubt = Uncertainty(number / 10, 0.0, 0)
        lines.append(LabelledScan(frame.frame_id, path, (NUM_POINTS,), Origin(), "x.bin", doubt).to_line())
    (folder / "scans.jsonl").write_text("".join(lines))
    example = {"frame_id": "f0", "points_uri": "", "dataset": "nuscenes", "columns": 0, "position": 0, "labels": "x"}
    summary = {
        "run": "runs/a", "step": 1200, "fingerprint": "12ab", "file_format": "lidarseg", "dataset": "nuscenes",
        "data": {}, "read_as": None, "num_scans": 3, "prepared": str(folder / "prepared"), "examples": [example],
    }  # fmt: skip
    (folder / "predictions.json").write_text(json.dumps(summary))
    return str(folder)


def clouds_of(page: Path) -> list[dict]:
    text = re.search(r'<script id="clouds" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)[1]
    return json.loads(text)


def test_the_least_certain_scans_are_shown_with_all_there_is(said, tmp_path, capsys):
    view(said, str(tmp_path / "v.html"), num_scans=2)
    first, second = clouds_of(tmp_path / "v.html")
    assert (first["frame"], second["frame"]) == ("f2", "f1")
    assert list(first["layers"]) == ["truth", "prediction"]
    sure = np.frombuffer(base64.b64decode(first["confidence"]["prediction"]), np.uint8)
    assert set(sure.tolist()) == {204}, "0.8 of 255"
    (camera,) = first["cameras"]
    assert camera["name"] == "CAM_FRONT", "what cannot be read is left out"
    assert "2 scans" in capsys.readouterr().out
    page = (tmp_path / "v.html").read_text()
    assert "http" not in page.lower()
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_points_lie_on_the_image_where_the_camera_sees_them(said, tmp_path):
    view(said, str(tmp_path / "v.html"), scans=["f0"])
    ((camera,),) = [cloud["cameras"] for cloud in clouds_of(tmp_path / "v.html")]
    index = np.frombuffer(base64.b64decode(camera["index"]), "<u2")
    pixels = np.frombuffer(base64.b64decode(camera["pixels"]), "<i2").reshape(-1, 2)
    x, y, z = keyframe(0).points[index, :3].T
    expected = np.stack([32 + 32 * x / y, 16 - 32 * z / y], axis=1) * 10  # the photo is ten times as wide
    assert len(index) > NUM_POINTS / 2
    np.testing.assert_allclose(pixels, expected, atol=1.01)
    assert (np.diff(y) <= 0).all(), "nearer points are drawn last"


def test_a_scan_that_is_not_there_is_named(said, tmp_path):
    with pytest.raises(DataError, match="f9: not labelled in"):
        view(said, str(tmp_path / "v.html"), scans=["f9"])
    with pytest.raises(DataError, match="expected at least 1 scan"):
        view(said, str(tmp_path / "v.html"), num_scans=0)
    with pytest.raises(DataError, match=r"has no predictions\.json"):
        view(str(tmp_path), str(tmp_path / "v.html"))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: the Debian package chromium, or Google Chrome")
def test_a_browser_without_network_draws_it_and_its_boxes_work(said, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
    view(said, str(tmp_path / "v.html"), num_scans=2)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(offline=True, viewport={"width": 1200, "height": 800})
        page, problems = context.new_page(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto((tmp_path / "v.html").as_uri())
        drawn = "(id) => { const c = document.getElementById(id), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const seen = new Set(); for (let i = 0; i < d.length; i += 4) seen.add(`${d[i]},${d[i+1]},${d[i+2]}`); return [...seen]; }"  # noqa: E501
        shown = lambda: page.inner_text("#shown")  # noqa: E731
        assert page.eval_on_selector_all("#layer option", "all => all.map(each => each.value)") == [
            "truth", "prediction", "prediction: errors", "prediction: confidence", "height",
        ]  # fmt: skip
        assert shown() == "300 of 300 points"
        page.select_option("#layer", "prediction: errors")
        assert "248,60,60" in page.evaluate(drawn, "canvas")
        page.wait_for_function("document.getElementById('photo').width === 640")
        assert "248,60,60" in page.evaluate(drawn, "photo"), "wrong points are red on the image, too"
        page.select_option("#layer", "truth")
        page.uncheck("#classes input[value='1']")
        assert shown() == "225 of 300 points", "a quarter of the points are of class 1; none of the unlabelled ones"
        page.click("text=none")
        assert shown() == "0 of 300 points"
        assert page.evaluate(drawn, "canvas") == ["15,23,42"]
        page.click("text=all")
        assert page.is_visible("#photo")
        page.select_option("#scan", "1")
        assert not page.is_visible("#photo"), "that scan has no camera"
        assert shown() == "300 of 300 points"
        before = page.evaluate("document.getElementById('canvas').toDataURL()")
        page.mouse.move(300, 400)
        page.mouse.wheel(0, -500)
        page.wait_for_function("before => document.getElementById('canvas').toDataURL() !== before", arg=before)
        page.screenshot(path=str(tmp_path / "view.png"))
        browser.close()
    assert problems == []
