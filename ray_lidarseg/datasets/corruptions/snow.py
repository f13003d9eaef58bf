"""Snow: flakes between sensor and target take their share of each beam, and weak returns are lost.

Each laser channel turns in a disk of its own with its own flakes: exponential in diameter, and so many that they fill
a share of its area that snowfall and speed of fall decide.

Source: Hahner et al., "LiDAR Snowfall Simulation for Robust 3D Object Detection" (CVPR 2022), as used by Robo3D; own
vectorised form. Ours: every scan and channel draws fresh flakes, only as far out as its beams reach; overlaps between
flakes and between pulses are left out; all channels share one focal distance and slope.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from ray_lidarseg.datasets.corruptions.severities import Setting
from ray_lidarseg.datasets.corruptions.wet_ground import MIN_GROUND_POINTS, ground_of
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE

_RADIUS_M = 80.0
_LARGEST_M = 0.02
_DIVERGENCE_RAD = 0.003
_HIGHEST = 255.0
_FLAKE_REFLECTIVITY = 0.9
_OVERLAP_FROM_M, _OVERLAP_TO_M = 0.9, 1.0
_SAME_PLACE_M = 0.2
_NOISE_FLOOR, _LOWEST_EDGE = 0.7, 5.0
# Ours: an HDL-64E's channels have slopes of 0.4 to 2.0 in a calibration that cannot be shipped; with these two for all,
# real scans of both data sets keep and lose about as many points as with a calibration of each channel.
_FOCUS_M, _FOCUS_SLOPE = 22.0, 0.9
_CHANNEL_RAD = 10.0  # keeps the azimuths of channels apart on one axis; more than a turn and two half beams


@dataclass(frozen=True)
class Flakes:
    """Flakes of all channels, in no order.

    Attributes:
        channel: [N] laser channel whose disk a flake is in.
        azimuth_rad: [N] in ±π.
        distance_m: [N] from the sensor.
        radius_m: [N] of the flake's cut with the disk.
    """

    channel: Int[np.ndarray, "N"]
    azimuth_rad: Float[np.ndarray, "N"]
    distance_m: Float[np.ndarray, "N"]
    radius_m: Float[np.ndarray, "N"]


def snow(
    frame: Keyframe,
    channel: Int[np.ndarray, "P"],
    setting: Setting,
    ground: tuple[int, ...],
    rng: np.random.Generator,
    legacy_power: bool = True,
) -> Keyframe:
    """Replaces returns by flakes that outshine them (no label), and deletes what falls below the noise.

    A flake at ρ with share q of the beam sends ``0.9 · 255 q ξ(ρ) / ρ²`` back. What the target behind keeps of the
    beam, q', sends as much per share (``legacy_power``: what the authors' code computes once a beam meets a flake, and
    what the published sets are made of), or its own intensity times q' (what the text means). The louder one is the
    return; within 0.2 m of the target only its intensity changes.

    Args:
        frame: A labelled scan.
        channel: Laser channel of each point.
        setting: Snowfall and speed of fall.
        ground: Class ids of the ground; with fewer than 1000 ground points nothing is deleted.
        rng: Draws the flakes.
        legacy_power: See above.
    """
    range_m = np.linalg.norm(frame.points[:, :3].astype(np.float64), axis=1)
    azimuth_rad = np.arctan2(frame.points[:, 1], frame.points[:, 0]).astype(np.float64)
    intensity = frame.points[:, 3].astype(np.float64) * _HIGHEST
    flakes = fall(channel, range_m, setting, rng)
    beam, flake, share = meetings(channel, azimuth_rad, range_m, flakes)
    distance_m = flakes.distance_m[flake]
    overlap = np.clip((distance_m - _OVERLAP_FROM_M) / (_OVERLAP_TO_M - _OVERLAP_FROM_M), 0, 1)
    power = _FLAKE_REFLECTIVITY * _HIGHEST * share * overlap / np.maximum(distance_m, _OVERLAP_FROM_M) ** 2
    rest = np.maximum(1 - np.bincount(beam, share, minlength=len(range_m)), 0)
    lit = _FLAKE_REFLECTIVITY * _HIGHEST / np.maximum(range_m, _OVERLAP_FROM_M) ** 2
    behind = rest * (lit if legacy_power else np.clip(intensity - _defocus(range_m), 0, _HIGHEST))
    order = np.lexsort((power, beam))
    is_last = np.append(np.diff(beam[order]) != 0, True) if len(order) else np.zeros(0, bool)
    strongest = order[is_last]  # the loudest flake of each beam that meets one
    hit = beam[strongest]
    is_flake = power[strongest] > behind[hit]
    seen_m, strength = range_m.copy(), intensity.copy()
    seen_m[hit] = np.where(is_flake, distance_m[strongest], range_m[hit])
    received = np.maximum(power[strongest], behind[hit])
    strength[hit] = np.clip(received + _defocus(seen_m[hit]), 0, _HIGHEST)
    is_snow = np.abs(range_m - seen_m) > _SAME_PLACE_M
    points = frame.points.copy()
    points[is_snow, :3] *= (seen_m[is_snow] / range_m[is_snow])[:, None]
    points[:, 3] = strength / _HIGHEST
    labels = np.where(is_snow, np.uint8(IGNORE), frame.labels)
    is_kept = is_snow | (strength > _weakest(frame, intensity, range_m, np.isin(frame.labels, ground)))
    ring = frame.ring[is_kept] if len(frame.ring) else frame.ring
    return replace(frame, points=points[is_kept], labels=labels[is_kept], ring=ring)


def mean_diameter_m(setting: Setting) -> float:
    """λ of the exponential distribution of diameters: ``10 / (25.5 R^-0.48)`` mm, R mm of rain an hour."""
    snowfall, speed = setting.values["snowfall_mm_per_h"], setting.values["fall_speed_m_per_s"]
    rain = (snowfall / (487 * 0.1 * 0.003 * speed)) ** 1.5
    return 0.01 / (25.5 * rain**-0.48)


def mean_count(setting: Setting) -> float:
    """Flakes in a whole disk: ``3 o R0² / λ²`` with o the share of the disk's area they cover."""
    occupied = setting.values["snowfall_mm_per_h"] / (3.6e6 * 0.1 * setting.values["fall_speed_m_per_s"])
    return 3 * occupied * _RADIUS_M**2 / mean_diameter_m(setting) ** 2


def fall(
    channel: Int[np.ndarray, "P"], range_m: Float[np.ndarray, "P"], setting: Setting, rng: np.random.Generator
) -> Flakes:
    """Flakes in the disks of all channels, out to each one's farthest return: nearer than the target alone counts."""
    reach_m = np.zeros(int(channel.max(initial=-1)) + 1)
    np.maximum.at(reach_m, channel, np.minimum(range_m, _RADIUS_M))
    counts = rng.poisson(mean_count(setting) * (reach_m / _RADIUS_M) ** 2)
    owner = np.repeat(np.arange(len(reach_m)), counts)
    diameter_m = np.minimum(rng.exponential(mean_diameter_m(setting), len(owner)), _LARGEST_M)
    radius_m = diameter_m / 2 * np.sqrt(1 - rng.uniform(-1, 1, len(owner)) ** 2)
    distance_m = np.maximum(reach_m[owner] * np.sqrt(rng.random(len(owner))), radius_m)
    return Flakes(owner, rng.uniform(-np.pi, np.pi, len(owner)), distance_m, radius_m)


def meetings(
    channel: Int[np.ndarray, "P"],
    azimuth_rad: Float[np.ndarray, "P"],
    range_m: Float[np.ndarray, "P"],
    flakes: Flakes,
) -> tuple[Int[np.ndarray, "K"], Int[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """Which beams meet which flakes in front of their target, and what share of the beam's width each flake covers.

    Returns:
        Point, flake and share in (0, 1] of each meeting.
    """
    half_rad = np.arcsin(np.minimum(flakes.radius_m / flakes.distance_m, 1.0))
    reach_rad = half_rad + _DIVERGENCE_RAD / 2
    own = np.concatenate([np.arange(len(half_rad))] * 3)
    turned = np.concatenate([flakes.azimuth_rad + turn for turn in (0.0, -2 * np.pi, 2 * np.pi)])
    is_near = np.abs(turned) < np.pi + reach_rad[own]  # copies across ±π only where they reach over it
    own, turned = own[is_near], turned[is_near]
    beams = np.argsort(channel * _CHANNEL_RAD + azimuth_rad, kind="stable")
    axis = (channel * _CHANNEL_RAD + azimuth_rad)[beams]
    centre = flakes.channel[own] * _CHANNEL_RAD + turned
    first = np.searchsorted(axis, centre - reach_rad[own], side="right")
    count = np.searchsorted(axis, centre + reach_rad[own], side="left") - first
    count = np.maximum(count, 0)
    pair = np.repeat(np.arange(len(own)), count)
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[pair]
    beam, flake = beams[place], own[pair]
    is_before = flakes.distance_m[flake] < range_m[beam]
    beam, flake, pair, place = (values[is_before] for values in (beam, flake, pair, place))
    away_rad = np.abs(axis[place] - centre[pair])
    covered = np.minimum(half_rad[flake], _DIVERGENCE_RAD / 2 - away_rad) + np.minimum(
        half_rad[flake], _DIVERGENCE_RAD / 2 + away_rad
    )
    share = np.clip(covered / _DIVERGENCE_RAD, 0, 1)
    is_met = share > 0
    return beam[is_met], flake[is_met], share[is_met]


def _defocus(range_m: Float[np.ndarray, "P"]) -> Float[np.ndarray, "P"]:
    """What the receiver loses away from its focus, on the scale 0 … 255."""
    focus = (1 - _FOCUS_M / 131) ** 2
    return _HIGHEST * _FOCUS_SLOPE * np.abs(focus - (1 - range_m / 120) ** 2)


def _weakest(
    frame: Keyframe, intensity: np.ndarray, range_m: np.ndarray, is_ground: Bool[np.ndarray, "P"]
) -> Float[np.ndarray, "P"]:
    """What a return must exceed: a parabola over range through the noise of the ground as it was without snow."""
    if is_ground.sum() < MIN_GROUND_POINTS:
        return np.full(len(range_m), -np.inf)
    found = ground_of(frame.points, intensity, is_ground, _NOISE_FLOOR, _LOWEST_EDGE)
    return np.polyval(np.polyfit(found.range_m, found.floor * found.cosine, 2), range_m)
