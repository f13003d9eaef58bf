"""Sizes of the world: how many scenes, frames, rays and pixels."""

from dataclasses import dataclass

from ray_lidarseg.errors import DataError

MINI_TRAIN = (
    "scene-0061", "scene-0553", "scene-0655", "scene-0757", "scene-0796", "scene-1077", "scene-1094", "scene-1100",
)  # fmt: skip
MINI_VAL = ("scene-0103", "scene-0916")
"""The scene names of nuScenes mini: its official splits and evaluators then work unchanged."""


@dataclass(frozen=True)
class Preset:
    """One size of the world; the sensor is nuScenes' unless a field says otherwise.

    Attributes:
        name: What ``--preset`` calls it.
        train_scenes: Names of the training scenes.
        val_scenes: Names of the validation scenes.
        num_frames: Key-frames of each scene.
        image_size: Width and height of the six images, pixels.
        num_beams: LiDAR rings, spread evenly from the lowest to the highest.
        num_columns: LiDAR firings in a turn.
        fov_down_deg: Lowest ring (nuScenes files, data.md §2.1).
        fov_up_deg: Highest ring.
        frame_interval_s: Time between key-frames (nuScenes: 2 Hz).
        calibration_error_deg: Standard deviation of the error in the camera rotations that the tables state.
        version: Table folder.
    """

    name: str
    train_scenes: tuple[str, ...] = MINI_TRAIN
    val_scenes: tuple[str, ...] = MINI_VAL
    num_frames: int = 20
    image_size: tuple[int, int] = (224, 126)
    num_beams: int = 32
    num_columns: int = 1084
    fov_down_deg: float = -30.61
    fov_up_deg: float = -30.61 + 31 * 1.333
    frame_interval_s: float = 0.5
    calibration_error_deg: float = 0.0
    version: str = "v1.0-mini"

    @property
    def scenes(self) -> tuple[str, ...]:
        """All scene names in order; the position is the scene's number."""
        return tuple(sorted((*self.train_scenes, *self.val_scenes)))


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("tiny", num_frames=2, image_size=(96, 54), num_beams=16, num_columns=256),
        Preset("demo"),
    )
}
"""By name."""


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        DataError: There is none.
    """
    if name not in PRESETS:
        raise DataError(f"no world preset {name!r}: choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
