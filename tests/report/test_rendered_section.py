import re
from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.report.page import report
from ray_lidarseg.report.rendered_section import rendered_galleries, view_pictures
from ray_lidarseg.report.run_summary import RunView, read_run
from ray_lidarseg.training.rendered_views import RenderedView, pack_views
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.types import IGNORE

CAR, ROAD = 3, 10
VIEW = RenderedView(
    "f0",
    "CAM_FRONT",
    np.full((2, 4, 3), 90, np.uint8),
    np.array([[1, 1, 2, 2], [0, 0, 3, 3]], np.uint16),
    np.array([[CAR, CAR, ROAD, ROAD], [IGNORE, IGNORE, ROAD, CAR]], np.uint8),
    np.full((2, 4), 25.0, np.float32),
    np.array([[0.0, 0.0, 0.2, 0.2], [1.0, 1.0, 0.0, 0.0]], np.float32),
    np.array([[CAR, CAR, CAR, CAR], [IGNORE] * 4], np.uint8),
    np.array([[CAR, CAR, ROAD, ROAD], [IGNORE, ROAD, ROAD, ROAD]], np.uint8),
)


def run(folder, method: str = "nerf") -> RunFolder:
    changes = {"model": {"name": "cylinder3d"}, "method.name": method}
    made = RunFolder(str(folder))
    made.write("recipe.yaml", override(Recipe(), changes).to_yaml().encode())
    return made


def test_pictures_say_their_numbers():
    said = [picture.caption for picture in view_pictures(VIEW, NUSCENES, 50.0)]
    assert said == [
        "CAM_FRONT",
        "true classes (hidden)",
        "rendered classes: 75% of the pixels opaque, 83% of them right",  # five of six
        "rendered depth: yellow 0 m, violet 50 m",
        "entropy: black sure, white no idea; mean 0.30",
        "segments: 3",
        "pseudo-labels kept: 2 of 3 segments, 50% of the pixels; precision 50%, recall 29%",  # 2 of 4, 2 of 7
    ]
    assert all(picture.source.startswith("data:image/") for picture in view_pictures(VIEW, NUSCENES, 50.0))


def test_without_hidden_truth_there_is_no_picture_of_it_and_no_precision():
    blind = replace(VIEW, truth=np.zeros((0, 0), np.uint8))
    said = [picture.caption for picture in view_pictures(blind, NUSCENES, 50.0)]
    assert len(said) == 6
    assert said[-1] == "pseudo-labels kept: 2 of 3 segments, 50% of the pixels"
    alone = replace(blind, segments=np.zeros((2, 4), np.uint16))
    assert view_pictures(alone, NUSCENES, 50.0)[-1].caption == "pseudo-labels kept: 50% of the pixels"


@pytest.mark.parametrize("content", [None, b"torn"])
def test_what_is_missing_is_a_note(tmp_path, content):
    made = run(tmp_path / "run")
    if content:
        made.write("evaluation/rendered-val.npz", content)
    notes: list[str] = []
    other = run(tmp_path / "other", "mean_teacher")
    views = [read_run(made.uri, "a"), read_run(other.uri, "b"), RunView("c", "nowhere", None)]
    assert rendered_galleries(views, notes) == []
    (note,) = notes
    assert note.startswith("a has no rendered images: ")
    assert "ray-lidarseg evaluate" in note


def test_the_page_shows_them(tmp_path):
    made = run(tmp_path / "run")
    made.write("evaluation/rendered-val.npz", pack_views([VIEW], 600))
    report([made.uri], str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "run after 600 steps: frame f0, CAM_FRONT" in page
    assert len(re.findall(r'<img src="data:image/[a-z]+;base64,[^"]+" alt="(?:true|rendered) classes', page)) == 2
    assert "http" not in page.lower()
