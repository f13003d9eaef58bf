"""Sensor and size options on top of a preset: ``--set beams=64``."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.bad_input import assignments, nearest, shown
from ray_lidarseg.synthetic.presets import Preset


@dataclass(frozen=True)
class Option:
    """One thing that can be set.

    Attributes:
        about: What it is, one line.
        low: Smallest value.
        high: Largest value.
        change: Fields of the preset for a value.
        whole: Whether only whole numbers make sense.
    """

    about: str
    low: float
    high: float
    change: Callable[[Preset, Any], dict[str, Any]]
    whole: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether its values are no and yes."""
        return self.whole and (self.low, self.high) == (0, 1)


def _field(name: str) -> Callable[[Preset, Any], dict[str, Any]]:
    return lambda preset, value: {name: value}


def _width(preset: Preset, width: int) -> dict[str, Any]:
    """The image keeps its shape."""
    return {"image_size": (width, round(width * preset.image_size[1] / preset.image_size[0]))}


def _rate(preset: Preset, rate_hz: float) -> dict[str, Any]:
    return {"frame_interval_s": 1 / rate_hz}


OPTIONS = {
    "beams": Option("LiDAR rings", 2, 128, _field("num_beams"), whole=True),
    "columns": Option("LiDAR firings in a turn", 16, 8192, _field("num_firings"), whole=True),
    "fov_up_deg": Option("elevation of the highest ring", -60, 90, _field("fov_up_deg")),
    "fov_down_deg": Option("elevation of the lowest ring", -90, 60, _field("fov_down_deg")),
    "lidar_raise_m": Option("LiDAR mounted so much higher than the rig's", -0.25, 3, _field("lidar_raise_m")),
    "lidar_forward_m": Option("LiDAR mounted so much farther in front", -3, 3, _field("lidar_forward_m")),
    "lidar_roll_deg": Option("LiDAR turned about the vehicle's x axis", -45, 45, _field("lidar_roll_deg")),
    "lidar_pitch_deg": Option("LiDAR turned about y, positive looks down", -45, 45, _field("lidar_pitch_deg")),
    "lidar_yaw_deg": Option("LiDAR turned about z, positive to the left", -180, 180, _field("lidar_yaw_deg")),
    "rate_hz": Option("key-frames a second", 0.1, 100, _rate),
    "frames": Option("key-frames of each scene", 1, 10_000, _field("num_frames"), whole=True),
    "image_width_px": Option("width of the images, which keep their shape", 16, 4096, _width, whole=True),
    "calibration_error_deg": Option("error of the stated camera rotations", 0, 45, _field("calibration_error_deg")),
    "camera_time_error_ms": Option(
        "how much later images are taken than stated", -500, 500, _field("camera_time_error_ms")
    ),
    "label_images": Option(
        "label images, hidden truth: yes or no", 0, 1, lambda preset, is_on: {"label_images": bool(is_on)}, whole=True
    ),
    "sectors": Option("poses a turn of the kitti preset is seen from", 1, 64, _field("num_sectors"), whole=True),
    "train_scenes": Option(
        "how many training scenes", 1, 1000, lambda preset, n: {"train_scenes": preset.train_scenes[:n]}, whole=True
    ),
    "val_scenes": Option(
        "how many validation scenes", 1, 1000, lambda preset, n: {"val_scenes": preset.val_scenes[:n]}, whole=True
    ),
}
"""By name."""


def with_options(preset: Preset, options: Mapping[str, object]) -> Preset:
    """The preset with some options changed; it remembers them, so that the data set's name tells it apart.

    Args:
        preset: A named size.
        options: Values by name, numbers or text.

    Raises:
        DataError: There is no such option, a value is no number or out of range, or values contradict each other.
    """
    changed, texts = preset, {}
    for name, value in sorted(options.items()):
        option = _named(name)
        number = _number(name, option, value)
        _refuse_too_many(preset, name, number)
        changed = replace(changed, **option.change(preset, number))
        texts[name] = f"{number:.12g}"
    if changed.fov_down_deg >= changed.fov_up_deg:
        raise DataError(
            f"the lowest ring at {changed.fov_down_deg:g} degrees is not below the highest at {changed.fov_up_deg:g}: "
            "set fov_down_deg and fov_up_deg together"
        )
    if changed.layout == "nuscenes" and "sectors" in options:
        raise DataError(f"preset {preset.name} writes motion-compensated sweeps: sectors belongs to preset kitti")
    if changed.layout != "nuscenes" and changed.label_images:
        raise DataError(f"preset {preset.name} writes no label images: label_images belongs to the nuScenes layout")
    return replace(changed, options=tuple(texts.items()))


def parse_options(settings: list[str]) -> dict[str, str]:
    """``["beams=64"]`` as a mapping.

    Raises:
        DataError: A setting has no ``=``.
    """
    return assignments(settings, "beams=64", DataError)


def _named(name: str) -> Option:
    if name in OPTIONS:
        return OPTIONS[name]
    raise DataError(f"no world option {shown(name)}{nearest(name, OPTIONS)}; options are {', '.join(OPTIONS)}")


_WORDS = {"no": 0.0, "yes": 1.0}


def _number(name: str, option: Option, value: object) -> float | int:
    try:
        number = _WORDS[str(value)] if option.is_switch and str(value) in _WORDS else float(str(value))
    except ValueError:
        number = math.nan
    text = str(value)[:40]
    if not option.low <= number <= option.high or (option.whole and number != int(number)):
        kind = "yes or no," if option.is_switch else "a whole number" if option.whole else "a number"
        raise DataError(
            f"world option {name}={text}: expected {kind} from {option.low:g} to {option.high:g} ({option.about})"
        )
    return int(number) if option.whole else number


def _refuse_too_many(preset: Preset, name: str, number: float) -> None:
    if name in ("train_scenes", "val_scenes") and number > len(getattr(preset, name)):
        raise DataError(f"world option {name}={number}: preset {preset.name} has {len(getattr(preset, name))} of them")
