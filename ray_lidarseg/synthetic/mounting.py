"""Where the LiDAR sits on the vehicle: the rig's place, the scene's tilt, and what the preset moves and turns."""

import numpy as np

from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.solids import tilt_matrix


def ego_SE3_lidar(scene: Scene, position_m: tuple[float, float, float], yaw_rad: float) -> np.ndarray:  # noqa: N802
    """float64 [4, 4] mounting of a rig's LiDAR in the ego frame (x forward, y left, z up).

    Args:
        scene: Its nuisance tilts the sensor a little; its preset's mounting options come on top.
        position_m: Place of the rig's LiDAR.
        yaw_rad: Where the rig's x axis points, from forward to the left.
    """
    preset = scene.preset
    roll_rad, pitch_rad = np.add(
        scene.nuisance.lidar_tilt_rad, np.radians([preset.lidar_roll_deg, preset.lidar_pitch_deg])
    )
    pose = np.eye(4)
    turned = tilt_matrix(yaw_rad + np.radians(preset.lidar_yaw_deg), pitch_rad, roll_rad)
    left, _, right = np.linalg.svd(turned.astype(np.float64))
    pose[:3, :3] = left @ right
    pose[:3, 3] = np.add(position_m, [preset.lidar_forward_m, 0.0, preset.lidar_raise_m])
    return pose
