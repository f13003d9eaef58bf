"""Label images of a world: written where they are asked for, right, and read back as an image data set."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ray_lidarseg.datasets import world_images
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.errors import DataError
from ray_lidarseg.synthetic import nuscenes_writer as writer
from ray_lidarseg.synthetic.cameras import RIG, picture
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS, Preset
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.shading import Light
from ray_lidarseg.types import IGNORE

SMALL = {"columns": 32, "frames": 1, "image_width_px": 48, "train_scenes": 1, "val_scenes": 1}


def write(root: Path, preset: Preset) -> list[Scene]:
    cv2.setNumThreads(1)
    scenes = [Scene(preset, 0, index) for index in range(len(preset.scenes))]
    writer.write_tables(root, preset, 0, [writer.write_scene(root, scene) for scene in scenes])
    return scenes


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    write(root, with_options(PRESETS["tiny"], {**SMALL, "label_images": "yes"}))
    return root


def test_every_image_becomes_a_frame_with_the_truth_of_its_pixels(root):
    frames = list(world_images.index(str(root)))
    assert len(frames) == 2 * len(RIG)
    assert {frame.split for frame in frames} == {"train", "val"}
    assert len({frame.frame_id for frame in frames}) == len(frames)
    chosen = next(frame for frame in frames if frame.frame_id.endswith("/CAM_BACK"))
    scene = Scene(with_options(PRESETS["tiny"], {**SMALL, "label_images": "yes"}), 0, 0)
    assert chosen.scene == scene.preset.scenes[0]
    light, mounting = Light(scene), next(mounting for mounting in RIG if mounting.channel == "CAM_BACK")
    seen = picture(scene, light, 0, mounting, light.at(0.0))
    decoded = decode(chosen, lambda uri: Path(uri).read_bytes())
    np.testing.assert_array_equal(decoded.labels, NUSCENES.to_train(seen.labels.reshape(-1)))
    assert set(decoded.labels[np.isinf(seen.depth).reshape(-1)]) == {IGNORE}  # the sky
    assert (decoded.cameras[0].height_px, decoded.cameras[0].width_px) == seen.labels.shape == (27, 48)


def test_the_images_are_those_of_the_world_without_label_images(root, tmp_path):
    write(tmp_path, with_options(PRESETS["tiny"], SMALL))
    assert not (tmp_path / world_images.FOLDER).exists()
    with_truth, without = (sorted(folder.glob("samples/CAM_*/*.jpg")) for folder in (root, tmp_path))
    assert [file.read_bytes() for file in with_truth] == [file.read_bytes() for file in without]
    with pytest.raises(DataError, match=r"holds no folder label_images: make the world with .*label_images=yes"):
        list(world_images.index(str(tmp_path)))


def test_a_missing_label_image_is_made_again_and_named_until_then(root):
    preset = with_options(PRESETS["tiny"], {**SMALL, "label_images": "yes"})
    file = next(iter(root.glob("label_images/CAM_FRONT/*.png")))
    assert file in list(writer.files(root, preset, 0))
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(DataError, match=r"label_images/CAM_FRONT/.*png is missing: run the same"):
        list(world_images.index(str(root)))
    write(root, preset)
    assert file.read_bytes() == content
