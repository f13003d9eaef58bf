"""One door to all corruptions of a scan, each with a generator of its own for every corruption, severity and frame."""

import hashlib
from dataclasses import replace

import numpy as np

from ray_lidarseg.datasets.corruptions import sensor_faults
from ray_lidarseg.datasets.corruptions.channels import channels
from ray_lidarseg.datasets.corruptions.fog import fog
from ray_lidarseg.datasets.corruptions.severities import VERSION, Setting
from ray_lidarseg.datasets.corruptions.snow import snow
from ray_lidarseg.datasets.corruptions.wet_ground import wet_ground
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import ImageSensor, Keyframe, SensorSpec

_OF_INTENSITY = ("fog", "wet_ground", "snow")
"""Corruptions that are computed from how bright returns are."""


def corrupt(frame: Keyframe, setting: Setting, dataset: DatasetSpec, sensor: SensorSpec) -> Keyframe:
    """The frame as the sensor would have recorded it in bad weather or with a fault; the same every time.

    Points that are not finite no corruption sees: they come last, as they were. A scan without points stays as it is,
    and in weather a scan without intensity, too.

    Args:
        frame: A decoded, labelled key-frame; cameras stay as they are.
        setting: Which corruption, and how strong.
        dataset: Tells which classes are ground and which are vehicles.
        sensor: Its LiDAR.

    Raises:
        DataError: The frame is an image, or has no labels, which tell wet ground and echoes where to act.
    """
    if isinstance(sensor, ImageSensor):
        raise DataError(f"frame {frame.frame_id} is an image: {setting.corruption} corrupts LiDAR scans")
    if len(frame.labels) != len(frame.points):
        raise DataError(
            f"frame {frame.frame_id} has {len(frame.points)} points and {len(frame.labels)} labels: corruptions need a "
            "label for each point, as they act on ground and vehicles"
        )
    is_finite = np.isfinite(frame.points).all(axis=1)
    seen = frame if is_finite.all() else sensor_faults.chosen(frame, is_finite)
    if not len(seen.points) or (setting.corruption in _OF_INTENSITY and not sensor.intensity_scale):
        return frame
    changed = _changed(seen, setting, dataset, sensor, generator(setting, frame.frame_id))
    return changed if is_finite.all() else _joined(changed, sensor_faults.chosen(frame, ~is_finite))


def generator(setting: Setting, frame_id: str) -> np.random.Generator:
    """The one generator of (corruption, severity, frame)."""
    digest = hashlib.sha256(f"{VERSION}/{setting.name}/{frame_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def without_effect(dataset: DatasetSpec) -> list[str]:
    """Why some corruptions leave this data set as it is, in words; empty where all act."""
    missing = (("wet_ground", "ground", dataset.ground), ("incomplete_echo", "vehicles", dataset.vehicles))
    said = [
        f"{corruption} changes nothing: no class of {dataset.taxonomy.name} is named as {kind}"
        for corruption, kind, classes in missing
        if not classes
    ]
    if not dataset.sensor.intensity_scale:
        said.append(f"{', '.join(_OF_INTENSITY)} change nothing: {dataset.taxonomy.name} has no intensity")
    return said


def _changed(
    frame: Keyframe, setting: Setting, dataset: DatasetSpec, sensor: SensorSpec, rng: np.random.Generator
) -> Keyframe:
    match setting.corruption:
        case "fog":
            return fog(frame, setting, sensor, rng)
        case "wet_ground":
            return wet_ground(frame, setting, sensor, dataset.ground)
        case "snow":
            return snow(frame, channels(frame, sensor), setting, dataset.ground, rng)
        case "motion_blur":
            return sensor_faults.motion_blur(frame, setting, rng)
        case "beam_missing":
            return sensor_faults.beam_missing(frame, channels(frame, sensor), setting, sensor, rng)
        case "crosstalk":
            return sensor_faults.crosstalk(frame, setting, sensor, rng)
        case "incomplete_echo":
            return sensor_faults.incomplete_echo(frame, setting, dataset.vehicles, rng)
        case _:
            return sensor_faults.cross_sensor(frame, channels(frame, sensor), setting, sensor)


def _joined(first: Keyframe, last: Keyframe) -> Keyframe:
    columns = {name: np.concatenate([getattr(part, name) for part in (first, last)]) for name in ("points", "labels")}
    return replace(first, **columns, ring=np.concatenate([first.ring, last.ring]))
