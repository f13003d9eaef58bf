import numpy as np

from ray_lidarseg.synthetic.scribbles import TARGET_RATIO, scribble


def _plane(side_m: float, height_m: float, step_m: float = 0.1) -> np.ndarray:
    x, y = np.meshgrid(np.arange(0, side_m, step_m), np.arange(0, side_m, step_m))
    return np.column_stack([x.ravel(), y.ravel(), np.full(x.size, height_m)]).astype(np.float32) + 0.05


def test_a_plane_gets_its_share_in_lines_and_not_in_dots():
    points = _plane(30, 0)
    marked = scribble(points, np.full(len(points), 40, np.uint16), np.random.default_rng(0))
    assert abs(marked.mean() - TARGET_RATIO) < 0.005
    grid = marked.reshape(300, 300)
    beside = np.stack([np.roll(grid, shift, axis) for axis in (0, 1) for shift in (-1, 1)])
    assert (beside.any(axis=0) & grid).sum() > 0.99 * grid.sum()
    wide = np.lib.stride_tricks.sliding_window_view(grid, (10, 10)).all(axis=(2, 3))
    assert not wide.any()  # nowhere a patch of a square metre


def test_every_class_is_drawn_alone_and_noise_never():
    points = np.concatenate([_plane(10, 0), _plane(10, 0.03), _plane(10, 5)])
    labels = np.repeat(np.array([40, 72, 1], np.uint16), len(points) // 3)
    marked = scribble(points, labels, np.random.default_rng(1))
    assert not marked[labels == 1].any()
    for raw in (40, 72):
        assert 0.07 < marked[labels == raw].mean() < 0.1


def test_one_point_is_a_dot_and_the_same_generator_draws_the_same():
    alone = scribble(np.zeros((1, 3), np.float32), np.array([81], np.uint16), np.random.default_rng(0))
    assert alone.tolist() == [True]
    points, labels = _plane(10, 0), np.full(10_000, 40, np.uint16)
    first, second = (scribble(points, labels, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
