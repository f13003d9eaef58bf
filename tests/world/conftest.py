"""One tiny world for all tests of this folder, written without Ray."""

from pathlib import Path

import cv2
import pytest

from ray_lidarseg.world.nuscenes_writer import write_scene, write_tables
from ray_lidarseg.world.presets import PRESETS
from ray_lidarseg.world.scene import Scene


@pytest.fixture(scope="session")
def tiny_scene() -> Scene:
    return Scene(PRESETS["tiny"], 0, 1)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    cv2.setNumThreads(1)
    root = tmp_path_factory.mktemp("world")
    preset = PRESETS["tiny"]
    rows = [write_scene(root, Scene(preset, 0, index)) for index in range(len(preset.scenes))]
    write_tables(root, preset, 0, rows)
    return root


@pytest.fixture(scope="session")
def nusc(tiny_world):
    from nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(tiny_world), verbose=False)
