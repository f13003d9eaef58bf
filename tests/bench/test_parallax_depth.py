from dataclasses import replace

import pytest
import torch

from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.types import IGNORE
from tests.bench.parallax import Look, look_at, rendered, scene_of
from tests.bench.parallax_depth import FATES, GRIDS, fates, of_scene, problems


@pytest.fixture(scope="module")
def look() -> Look:
    return look_at(scene_of(PRESETS["demo"], 9800), 9800, 3, 1.0)


def test_each_pixel_of_known_class_has_the_fate_of_its_class_and_depth(look):
    few = replace(look, known=torch.tensor([0, 0, 0, 0, 0, IGNORE]), depth_m=torch.tensor([10.0, 10, 10, 10, 40, 10]))
    is_opaque = torch.tensor([False, True, True, True, True, True])
    said = torch.tensor([0, 0, 1, 1, 1, 1])
    found = fates(few, is_opaque, said, torch.tensor([10.0, 30, 10.6, 9.4, 41.9, 10]))  # 5 % of 40 m are 2 m
    assert found == {"nothing": 1, "right": 1, "through": 1, "in front": 1, "there": 1}


def test_the_hidden_depth_is_along_the_ray_like_the_rendered_one(look):
    seen = rendered(look, GRIDS["fine"])
    is_right = (seen.opacity > 0.9) & (seen.semantics.argmax(1) == look.known)
    ratio = (seen.depth_m / look.depth_m)[is_right]
    assert ratio.median() == pytest.approx(1, abs=0.04)  # along the optical axis they would be a tenth shorter


def test_fates_add_up_and_it_is_said_where_they_do_not():
    row = {"seed": 9800, **of_scene(9800, (3,))}
    assert row["known"] > 1000
    assert problems([row]) == []
    target = next(iter(GRIDS))
    (problem,) = problems([{**row, f"{target}_{FATES[1]}": 0}])
    assert problem.startswith(f"seed 9800, {target}: fates of")
