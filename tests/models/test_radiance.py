import pytest
import torch
from torch.nn import functional

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.rays import lidar_rays
from ray_lidarseg.geometry.rendering import render_dense, render_packed
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.radiance import RadianceHead
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec

SENSOR = SensorSpec(32, fov_up_rad=0.17, fov_down_rad=-0.52, min_range_m=1.0, max_range_m=20.0, intensity_scale=1.0)
MODELS = {
    "minkunet": schema.MinkUNet(depth=14, width_factor=0.125, voxel_size_m=0.5),
    "spvcnn": schema.SPVCNN(depth=14, width_factor=0.125, voxel_size_m=0.5),
    "cylinder3d": schema.Cylinder3D(grid=(20, 18, 10), radius_m=15.0, width_factor=0.125),
}
FIDNET = schema.FIDNet(height_px=16, width_px=64, width_factor=0.125, blocks=(1, 1, 1, 1))
REACH_M = (1.0, 18.0)


def scan(seed: int = 0, num_points: int = 300) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(num_points, 2, generator=generator) * 26 - 13
    rest = torch.rand(num_points, 2, generator=generator)
    points = torch.cat([xy, rest[:, :1] * 2 - 2, rest[:, 1:]], 1)
    return PointBatch.of_scan(points, torch.zeros(num_points, dtype=torch.int64))


def built(name: str) -> tuple[torch.nn.Module, RadianceHead]:
    torch.manual_seed(0)
    model = build_segmentor(schema.Recipe(model=MODELS[name]), SENSOR, 3)
    return model.eval(), RadianceHead(model.cell_feature_dim, 3, 8, (16, 16), -1.0)


@pytest.mark.parametrize("name", MODELS)
def test_every_voxel_model_is_rendered_and_both_renderers_agree(name):
    model, head = built(name)
    batch = scan()
    field = head.field(model(batch))
    rays = lidar_rays(batch.points.numpy(), REACH_M)
    packed, dense = (render(rays, field, 0.25) for render in (render_packed, render_dense))
    torch.testing.assert_close(packed.semantics, dense.semantics, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed.depth_m, dense.depth_m, atol=1e-5, rtol=1e-5)
    assert packed.num_samples < 0.7 * dense.num_samples  # the cells of these models are large
    assert (packed.opacity > 0.01).float().mean() > 0.8  # nearly every beam meets the cell of its own return
    (packed.semantics.sum() + packed.depth_m.sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_density_and_scores_are_those_of_the_plain_formula(name):
    """Interpolating features of full width and reducing the samples, in place of the other way round."""
    model, head = built(name)
    batch = scan()
    output = model(batch)
    places = batch.points[:, :3] + 0.1
    density, scores = head.field(output)(places, batch.scan_idx)
    said = head.network(head.reduce(output.sample(places, batch.scan_idx)))
    coverage = output.cells.in_space.corners(places, batch.scan_idx).weights.sum(1)
    torch.testing.assert_close(density, functional.softplus(said[:, 0] - 1.0) * coverage)
    torch.testing.assert_close(scores, said[:, 1:])


def test_empty_space_is_empty_and_density_has_no_jump_at_its_rim():
    model, head = built("minkunet")
    batch = PointBatch.of_scan(torch.tensor([[5.25, 5.25, -0.75, 0.5]]))
    field = head.field(model(batch))
    away_m = torch.tensor([0.0, 0.25, 0.4, 0.4999, 0.5, 3.0])  # cells are half a metre wide
    places = torch.tensor([[5.25, 5.25, -0.75]]) + away_m[:, None] * torch.tensor([[1.0, 0.0, 0.0]])
    density, _ = field(places, torch.zeros(6, dtype=torch.int64))
    assert density[0] > 0.01
    assert (density.diff() <= 1e-6).all()
    assert density[3] < 1e-3 * density[0]
    assert density[4:].tolist() == [0.0, 0.0]


def test_under_bf16_densities_and_scores_are_float32():
    model, head = built("cylinder3d")
    batch = scan()
    with torch.autocast("cpu", torch.bfloat16):
        density, scores = head.field(model(batch))(batch.points[:, :3], batch.scan_idx)
    assert density.dtype == scores.dtype == torch.float32


def test_no_points_at_all_still_give_every_parameter_a_gradient():
    model, head = built("minkunet")
    batch = scan(num_points=0)
    found = render_packed(lidar_rays(scan().points.numpy(), REACH_M), head.field(model.train()(batch)), 0.5)
    (found.semantics.sum() + found.depth_m.sum()).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())


def test_a_model_that_sees_images_has_nothing_to_render():
    model = build_segmentor(schema.Recipe(model=FIDNET), SENSOR, 3)
    with pytest.raises(RecipeError, match=r"set model\.name to cylinder3d, minkunet or spvcnn"):
        RadianceHead(model.cell_feature_dim, 3, 8, (16,), -1.0).field(model(scan()))
