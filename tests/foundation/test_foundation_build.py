import subprocess
import sys

import pytest

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.build import build_masks, checkpoint_paths, identity
from ray_lidarseg.foundation.settings import PairSettings, SamMasks, SlicMasks, TimmFeatures
from ray_lidarseg.foundation.teachers import MaskTeacher


def test_settings_and_identity_load_no_model_library():
    code = (
        "import sys, ray_lidarseg.foundation.build as b; from ray_lidarseg.foundation.settings import SlicMasks; "
        "b.identity(SlicMasks()); print([m for m in ('torch', 'open_clip', 'timm', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_identity_of_teachers_without_weights_is_their_settings():
    assert identity(SlicMasks(num_segments=9)) == {
        "name": "slic",
        "num_segments": 9,
        "compactness": 6.0,
        "sigma": 3.0,
        "max_iterations": 10,
    }
    assert identity(PairSettings()) != identity(PairSettings(occlusion=False))


def test_identity_of_sam_is_its_weights_whatever_they_are_called(tmp_path):
    first, second = tmp_path / "sam.pth", tmp_path / "copy" / "other.pth"
    second.parent.mkdir()
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    assert identity(SamMasks(checkpoint=str(first))) == identity(SamMasks(checkpoint=str(second), prompt_batch=7))
    assert identity(SamMasks(checkpoint=str(first))) != identity(SamMasks(checkpoint=str(first), nms_iou=0.5))
    second.write_bytes(b"others!")
    assert identity(SamMasks(checkpoint=str(first))) != identity(SamMasks(checkpoint=str(second)))


def test_paths_of_a_checkpoint(tmp_path):
    (tmp_path / "dino.pth").write_bytes(b"x")
    assert checkpoint_paths(TimmFeatures(checkpoint=str(tmp_path / "dino.pth"))) == (tmp_path / "dino.pth",)
    with pytest.raises(DataError, match="no checkpoint file at"):
        checkpoint_paths(SamMasks(checkpoint=str(tmp_path / "absent.pth")))


def test_masks_by_name():
    assert isinstance(build_masks(SlicMasks(), "cpu"), MaskTeacher)
