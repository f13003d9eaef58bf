"""Scans whose class is a function of where a point lies, so that a tiny network can learn them in seconds."""

import math
from collections.abc import Callable

import pytest
import torch

from ray_lidarseg.methods.method import Losses, Method
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec

SENSOR = SensorSpec(16, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)
NUM_CLASSES = 4
MODELS = {
    "fidnet": schema.FIDNet(height_px=16, width_px=64, width_factor=0.125, blocks=(1, 1, 1, 1)),
    "minkunet": schema.MinkUNet(depth=14, width_factor=0.125, voxel_size_m=1.0),
}


def scan(seed: int, num_points: int = 600) -> PointBatch:
    """One scan: ground below -15°, and three walls told apart by range and intensity; every 20th point is IGNORE."""
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda low, high: low + (high - low) * torch.rand(num_points, generator=generator)  # noqa: E731
    azimuth, inclination = uniform(-math.pi, math.pi), uniform(SENSOR.fov_down_rad, SENSOR.fov_up_rad)
    sector = ((azimuth + math.pi) / (2 * math.pi) * 3).long().clamp(max=2)
    is_ground = inclination < math.radians(-15.0)
    range_m = torch.where(is_ground, 1.5 / (-inclination).clamp(min=0.1).sin(), 10.0 + 10.0 * sector)
    labels = torch.where(is_ground, 0, 1 + sector)
    labels[::20] = 255
    x, y = range_m * inclination.cos() * azimuth.cos(), range_m * inclination.cos() * azimuth.sin()
    points = torch.stack([x, y, range_m * inclination.sin(), 0.2 * sector + uniform(0.0, 0.05)], dim=1)
    return PointBatch.of_scan(points, labels)


@pytest.fixture
def labelled() -> PointBatch:
    return PointBatch.pack([scan(0), scan(1)])


@pytest.fixture
def unlabelled() -> PointBatch:
    return PointBatch.pack([scan(2), scan(3)]).unlabelled()


@pytest.fixture
def build() -> Callable[..., Method]:
    """Builds a method with the same initial weights each time."""
    from ray_lidarseg.methods.build import build_method

    def build(method: schema.Supervised, model: str = "fidnet") -> Method:
        torch.manual_seed(0)
        data = schema.Data(evidence="layer", evidence_dim=6) if isinstance(method, schema.Distill) else schema.Data()
        recipe = schema.Recipe(data=data, model=MODELS[model], method=method)
        return build_method(recipe, SENSOR, NUM_CLASSES).train()

    return build


@pytest.fixture
def run() -> Callable[..., list[Losses]]:
    """Trains for some steps as the loop does and returns what each step said."""

    def run(method: Method, labelled: PointBatch, unlabelled: PointBatch, steps: int, lr: float = 0.01, seed: int = 0):
        optimiser = torch.optim.AdamW(method.student.parameters(), lr=lr)
        said = []
        for step in range(steps):
            generator = torch.Generator().manual_seed(1000 * seed + step)
            losses = method(labelled, unlabelled, step / steps, generator)
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
            method.after_step(step / steps)
            said.append(Losses({name: term.detach() for name, term in losses.terms.items()}, losses.stats))
        return said

    return run


@pytest.fixture
def check_teacher(run) -> Callable[[Method, PointBatch, PointBatch], None]:
    """One step: a gradient for every parameter of the student, none for the teacher's, which move by a tenth."""

    def check(method: Method, labelled: PointBatch, unlabelled: PointBatch) -> None:
        assert method.recipe.ema_decay == 0.9
        before = [parameter.clone() for parameter in method.teacher.parameters()]
        run(method, labelled, unlabelled, 1)
        assert all(parameter.grad is None for parameter in method.teacher.parameters())
        assert all(parameter.grad is not None for parameter in method.student.parameters())
        for old, teacher, student in zip(before, method.teacher.parameters(), method.student.parameters(), strict=True):
            torch.testing.assert_close(teacher, 0.9 * old + 0.1 * student)

    return check
