"""One tiny world for all tests of this folder, written without Ray."""

from pathlib import Path

import cv2
import pytest

from ray_lidarseg.synthetic.nuscenes_writer import write_scene, write_tables
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene


@pytest.fixture(scope="session")
def tiny_scenes() -> list[Scene]:
    return [Scene(PRESETS["tiny"], 0, index) for index in range(10)]


@pytest.fixture(scope="session")
def tiny_scene(tiny_scenes) -> Scene:
    return tiny_scenes[1]


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory, tiny_scenes) -> Path:
    cv2.setNumThreads(1)
    root = tmp_path_factory.mktemp("world")
    write_tables(root, PRESETS["tiny"], 0, [write_scene(root, scene) for scene in tiny_scenes])
    return root


@pytest.fixture(scope="session")
def nusc(tiny_world):
    from nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(tiny_world), verbose=False)
