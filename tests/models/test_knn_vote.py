import numpy as np
import torch

from ray_lidarseg.geometry.range_image import project
from ray_lidarseg.geometry.spherical import ranges
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.models.knn_vote import CUT_OFF_M, NUM_VOTES, WINDOW_PX, KNNVote, votes
from ray_lidarseg.sample import PointBatch, SensorSpec

SENSOR = SensorSpec(8, 0.3, -0.3, min_range_m=0.0, max_range_m=50.0, intensity_scale=1.0)
HEIGHT, WIDTH = 8, 64


def at(range_m: float, azimuth_rad: float, inclination_rad: float = 0.01) -> list[float]:
    flat = range_m * np.cos(inclination_rad)
    return [flat * np.cos(azimuth_rad), flat * np.sin(azimuth_rad), range_m * np.sin(inclination_rad), 0.5]


def random_batch(num_points: int = 700, num_scans: int = 2) -> PointBatch:
    rng = np.random.default_rng(0)
    scans = [
        PointBatch.of_scan(
            torch.tensor(
                [at(r, a, i) for r, a, i in rng.uniform([3, -np.pi, -0.35], [9, np.pi, 0.35], (num_points, 3))]
            ).float()
        )
        for _ in range(num_scans)
    ]
    return PointBatch.pack(scans)


def test_votes_equal_those_of_a_loop():
    batch = random_batch()
    images, range_m = project(batch, SENSOR, HEIGHT, WIDTH), ranges(batch.points)
    voters, is_vote = votes(images, range_m)
    shown = {int(pixel): number for number, pixel in enumerate(images.pixel)}
    reach = np.arange(WINDOW_PX) - WINDOW_PX // 2
    bell = np.outer(np.exp(-(reach**2) / 2), np.exp(-(reach**2) / 2))
    bell /= bell.sum()
    for point in range(0, len(batch), 37):
        own = int(images.pixel[images.point_cell[point]])
        scan, row, column = own // (HEIGHT * WIDTH), own // WIDTH % HEIGHT, own % WIDTH
        found = []
        for down in reach:
            for right in reach:
                if not 0 <= row + down < HEIGHT:
                    continue
                cell = shown.get((scan * HEIGHT + row + down) * WIDTH + (column + right) % WIDTH)
                if cell is None:
                    continue
                away = abs(float(range_m[images.nearest[cell]] - range_m[point])) if down or right else 0.0
                found.append((away * (1 - bell[down + 2, right + 2]), cell))
        expected = sorted(cell for away, cell in sorted(found)[:NUM_VOTES] if away <= CUT_OFF_M)
        assert sorted(voters[point][is_vote[point] == 1].tolist()) == expected


def test_a_point_behind_the_one_its_pixel_shows_sides_with_those_as_far_as_itself():
    """A car's point hides a wall's in one pixel; around it the wall shows at 12 m."""
    step = 2 * np.pi / WIDTH
    wall = [at(12.0, (number + 0.5) * step) for number in (-2, -1, 1, 2)]
    batch = PointBatch.of_scan(torch.tensor([at(5.0, 0.5 * step), at(12.0, 0.5 * step + 0.001), *wall]).float())
    model = FIDNet(SENSOR, 2, HEIGHT, WIDTH, 0.0625, (1, 1, 1, 1)).eval()

    def logits(features: torch.Tensor) -> torch.Tensor:
        shown = project(batch, SENSOR, HEIGHT, WIDTH).nearest
        is_car = (ranges(batch.points)[shown] < 6)[:, None]
        return torch.where(is_car, torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])) + 0 * features[:, :1]

    model.classifier.forward = logits
    before, after = model(batch), KNNVote(model)(batch)
    assert before.point_logits.argmax(1).tolist() == [0, 0, 1, 1, 1, 1]
    assert after.point_logits.argmax(1).tolist() == [0, 1, 1, 1, 1, 1]
    torch.testing.assert_close(after.cell_logits, before.cell_logits)
    torch.testing.assert_close(after.point_logits.exp().sum(dim=1), torch.ones(6))
    sure = torch.tensor([2.0, 0.0]).softmax(dim=0)  # four pixels of wall and its own, of the car
    torch.testing.assert_close(after.point_logits[1].exp(), (4 * sure.flip(0) + sure) / 5)


def test_an_empty_batch_is_legal():
    model = KNNVote(FIDNet(SENSOR, 3, HEIGHT, WIDTH, 0.0625, (1, 1, 1, 1))).eval()
    assert model(PointBatch.of_scan(torch.zeros(0, 4))).point_logits.shape == (0, 3)
