"""Sizes of the world: how many scenes, frames, rays and pixels."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from ray_lidarseg.errors import DataError

MINI_TRAIN = (
    "scene-0061", "scene-0553", "scene-0655", "scene-0757", "scene-0796", "scene-1077", "scene-1094", "scene-1100",
)  # fmt: skip
MINI_VAL = ("scene-0103", "scene-0916")
"""The scene names of nuScenes mini: its official splits and evaluators then work unchanged."""

_OWN = tuple(f"synth-{number:04d}" for number in range(1, 76))
_SEQUENCES = tuple(f"{number:02d}" for number in range(11))
_KITTI_VAL = ("08",)


@dataclass(frozen=True)
class Preset:
    """One size of the world; the sensor is nuScenes' unless a field says otherwise.

    Attributes:
        name: What ``--preset`` calls it.
        train_scenes: Names of the training scenes.
        val_scenes: Names of the validation scenes.
        num_frames: Key-frames of each scene.
        image_size: Width and height of the images, pixels.
        num_beams: LiDAR rings, from the lowest to the highest; evenly spread in the nuScenes layout.
        num_firings: LiDAR firings in a turn.
        fov_down_deg: Lowest ring (nuScenes files, data.md §2.1).
        fov_up_deg: Highest ring.
        frame_interval_s: Time between key-frames (nuScenes: 2 Hz).
        calibration_error_deg: Angle between the true camera rotations and those that are written.
        lidar_raise_m: How much higher than the rig's the LiDAR is mounted; lower where negative.
        lidar_forward_m: How much farther to the front.
        lidar_roll_deg: Turn of the mounted LiDAR about the vehicle's x axis, beside the scene's own small tilt.
        lidar_pitch_deg: The same about y; positive looks down to the front.
        lidar_yaw_deg: The same about z; positive turns to the left.
        camera_time_error_ms: How much later than their time stamps say the images are taken.
        version: Table folder of the nuScenes layout.
        layout: Format that is written.
        num_sectors: Parts of a turn that have a pose of their own: a rolling shutter, SemanticKITTI layout only; 1: the
            whole turn is seen from one pose, as after motion compensation.
        label_images: Whether the classes of the images' pixels, hidden truth that no real log has, are written, too.
        is_suburb: Narrow streets between gardens, as where KITTI was recorded, instead of a town's.
        options: What ``world.options`` changed in the named preset, as text, sorted.
    """

    name: str
    train_scenes: tuple[str, ...] = MINI_TRAIN
    val_scenes: tuple[str, ...] = MINI_VAL
    num_frames: int = 20
    image_size: tuple[int, int] = (224, 126)
    num_beams: int = 32
    num_firings: int = 1084
    fov_down_deg: float = -30.61
    fov_up_deg: float = -30.61 + 31 * 1.333
    frame_interval_s: float = 0.5
    calibration_error_deg: float = 0.0
    camera_time_error_ms: float = 0.0
    lidar_raise_m: float = 0.0
    lidar_forward_m: float = 0.0
    lidar_roll_deg: float = 0.0
    lidar_pitch_deg: float = 0.0
    lidar_yaw_deg: float = 0.0
    version: str = "v1.0-mini"
    layout: Literal["nuscenes", "semantickitti"] = "nuscenes"
    num_sectors: int = 1
    label_images: bool = False
    is_suburb: bool = False
    options: tuple[tuple[str, str], ...] = ()

    @property
    def scenes(self) -> tuple[str, ...]:
        """All scene names in order; the position is the scene's number."""
        return tuple(sorted((*self.train_scenes, *self.val_scenes)))

    @property
    def suffix(self) -> str:
        """Tells data sets with different options apart; short, since file names carry it."""
        if not self.options:
            return ""
        text = ",".join(f"{key}={value}" for key, value in self.options)
        return "-" + hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8]


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("tiny", num_frames=2, image_size=(96, 54), num_beams=16, num_firings=256),
        Preset("demo"),
        Preset("bench", train_scenes=_OWN[:60], val_scenes=_OWN[60:], image_size=(400, 225), version="v1.0-synth"),
        Preset(
            "kitti",
            train_scenes=tuple(name for name in _SEQUENCES if name not in _KITTI_VAL),
            val_scenes=_KITTI_VAL,
            num_frames=50,
            image_size=(1242, 376),
            num_beams=64,
            num_firings=2083,
            fov_down_deg=-25.0,
            fov_up_deg=3.0,
            frame_interval_s=0.1,
            layout="semantickitti",
            num_sectors=8,
            is_suburb=True,
        ),
    )
}
"""By name; sizes from data.md §4.3, 50 frames a sequence are ours."""


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        DataError: There is none.
    """
    if name not in PRESETS:
        raise DataError(f"no world preset {name!r}: choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
