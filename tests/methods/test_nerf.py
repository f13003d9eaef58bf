"""NeRF self-supervision on scans whose class is a function of place; segments are given, as by a masks layer."""

import math
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.pose import from_matrix
from ray_lidarseg.geometry.rays import LIDAR, joined, lidar_rays, no_rays, rays_to_points, segment_id
from ray_lidarseg.geometry.rendering import render_dense
from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.methods import nerf as module
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.methods.objective import segmentation_terms
from ray_lidarseg.recipe import schema
from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.types import IGNORE, POINT_SEGMENT, RAY_CAMERA, RAY_TRUTH

SENSOR = SensorSpec(16, math.radians(10.0), math.radians(-30.0), 1.0, 30.0, 1.0)
NUM_CLASSES = 4
MODELS = {
    "cylinder3d": schema.Cylinder3D(grid=(30, 48, 16), radius_m=25.0, height_m=(-3.0, 4.0), width_factor=0.125),
    "minkunet": schema.MinkUNet(depth=14, width_factor=0.125, voxel_size_m=0.75),
    "spvcnn": schema.SPVCNN(depth=14, width_factor=0.125, voxel_size_m=0.75, dropout_ratio=0.0),
}
SMALL = {"step_m": 0.4, "far_m": 24.0, "hidden_dims": (16,), "reduced_dim": 8, "entropy_threshold": 0.9}
CAM_SE3_LIDAR = from_matrix([0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, -0.4, 1.0, 0.0, 0.0, -0.5])
REACH_M = (1.0, 24.0)


def scan(seed: int) -> PointBatch:
    """Ground, and three walls ahead told apart by side and intensity."""
    generator = np.random.default_rng(seed)
    kind = generator.integers(0, 4, 400)
    y = np.where(kind == 0, generator.uniform(-9, 9, 400), generator.uniform(-3, 3, 400) + 6 * (kind - 2))
    x = np.where(kind == 0, generator.uniform(3, 12, 400), 14.0)
    z = np.where(kind == 0, -1.5, generator.uniform(-1.5, 2, 400))
    points = np.stack([x, y, z, 0.2 * kind + generator.uniform(0, 0.05, 400)], 1).astype(np.float32)
    return PointBatch.of_scan(torch.from_numpy(points), torch.from_numpy(kind))


def with_rays(plain: PointBatch, labelled: bool) -> PointBatch:
    """Beams to all points, and rays of one camera to each; every class is one segment of its image."""
    points, labels = plain.points.numpy(), plain.labels.numpy()
    known = labels if labelled else np.full_like(labels, IGNORE)
    ids = segment_id(0, labels + 1)
    beams = lidar_rays(points, REACH_M, known)
    pixels = rays_to_points(points, CAM_SE3_LIDAR, REACH_M, 0, known, ids)
    if not labelled:
        pixels = replace(pixels, depth_m=torch.full_like(pixels.depth_m, math.nan))
    rays = joined([beams, pixels])
    truth = torch.cat([torch.full((len(points),), IGNORE), plain.labels])
    rays = replace(rays, extras={**rays.extras, RAY_TRUTH: truth})
    return replace(plain, rays=rays, labels=torch.from_numpy(known), extras={POINT_SEGMENT: torch.from_numpy(ids)})


@pytest.fixture
def labelled() -> PointBatch:
    return PointBatch.pack([with_rays(scan(seed), True) for seed in (0, 1)])


@pytest.fixture
def unlabelled() -> PointBatch:
    return PointBatch.pack([with_rays(scan(seed), False) for seed in (2, 3)])


def build(model: str = "cylinder3d", **settings) -> module.NeRF:
    torch.manual_seed(0)
    method = schema.NeRF(**{**SMALL, **settings})
    method = build_method(schema.Recipe(model=MODELS[model], method=method), SENSOR, NUM_CLASSES)
    return method.train()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("model", MODELS)
def test_every_voxel_model_learns_from_it_and_every_parameter_takes_part(model, labelled, unlabelled):
    method = build(model)
    losses = method(labelled, unlabelled, 0.5, generator())
    assert set(losses.terms) == {"cross_entropy", "lovasz", "rendered", "depth", "segments"}
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert all(p.grad.any() for p in method.head.parameters())


def test_terms_are_those_of_the_formula(labelled, unlabelled):
    """Against the dense renderer, with the same draws, in the order of the algorithm box."""
    settings = {"min_opacity": 0.0, "entropy_threshold": 1.0, "warm_up_ratio": 0.0, "segment_ramp_ratio": 0.0}
    method = build(rendered_weight=2.0, depth_weight=0.3, segment_weight=0.7, **settings)
    terms = method(labelled, unlabelled, 0.5, generator()).terms
    other, draws = build(**settings), generator()
    student_l, student_u = other.student(labelled), other.student(unlabelled)
    seen = []
    for output, scans in ((student_l, labelled), (student_u, unlabelled)):
        offset = torch.rand(len(scans.rays), generator=draws)
        seen.append(render_dense(scans.rays, other.head.field(output), 0.4, offset))
    of_voxels = segmentation_terms(student_l, method.recipe)
    torch.testing.assert_close(terms["cross_entropy"], of_voxels["cross_entropy"])
    torch.testing.assert_close(terms["rendered"], 2.0 * cross_entropy(seen[0].semantics, labelled.rays.labels))
    errors = [
        (found.depth_m - scans.rays.depth_m)[scans.rays.extras[RAY_CAMERA] == LIDAR].abs()
        for found, scans in zip(seen, (labelled, unlabelled), strict=True)
    ]
    torch.testing.assert_close(terms["depth"], 0.3 * torch.cat(errors).mean())
    segments = other._of_pixels(seen[1], unlabelled.rays)
    assert (segments.of_members != IGNORE).any()
    assert (segments.of_members[unlabelled.rays.extras[RAY_CAMERA] == LIDAR] == IGNORE).all()
    torch.testing.assert_close(terms["segments"], 0.7 * cross_entropy(seen[1].semantics, segments.of_members))


def test_pseudo_labels_do_not_move_the_density_unless_asked(labelled, unlabelled):
    def of_density(**settings) -> torch.Tensor:
        method = build(warm_up_ratio=0.0, segment_ramp_ratio=0.0, min_opacity=0.0, entropy_threshold=1.0, **settings)
        term = method(labelled, unlabelled, 0.5, generator()).terms["segments"]
        assert float(term.detach()) > 0
        (grad,) = torch.autograd.grad(term, method.head.network[-1].weight)
        return grad[0]

    assert not of_density().any()
    assert of_density(stop_density=False).any()


def test_pseudo_labels_wait_for_the_density_and_then_grow():
    method = build(segment_weight=0.5, warm_up_ratio=0.2, segment_ramp_ratio=0.5)
    weights = [method._segment_weight(progress) for progress in (0.0, 0.19, 0.2, 0.4, 0.6, 0.99)]
    assert weights[:2] == [0.0, 0.0]
    assert weights[2] == pytest.approx(0.5 * math.exp(-5))
    assert weights[3] == pytest.approx(0.5 * math.exp(-1.25))
    assert weights[4:] == [0.5, 0.5]


def test_transparent_pixels_neither_vote_nor_learn(labelled, unlabelled):
    stats = build(min_opacity=1.0)(labelled, unlabelled, 0.5, generator()).stats
    assert float(stats["segment_keep_ratio"]) == 0.0
    assert 0 < float(stats["pixel_opacity_ratio"]) < 1


@pytest.mark.parametrize("settings", [{}, {"target": "projected"}, {"teacher": "ema"}, {"mixing": {}}])
def test_rays_that_all_miss_are_no_harm(labelled, unlabelled, settings):
    """Every ray looks at the sky: finite, and a gradient for every parameter, so that no rank waits for another."""
    method = build(**settings)
    up = torch.tensor([0.0, 0.0, 1.0])

    def look_up(scans: PointBatch) -> PointBatch:
        rays = replace(scans.rays, directions=up.expand(len(scans.rays), 3), origins=scans.rays.origins + 10 * up)
        return replace(scans, rays=rays)

    losses = method(look_up(labelled), look_up(unlabelled), 0.5, generator())
    losses.total.backward()
    assert torch.isfinite(losses.total)
    own = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own)
    if "mixing" not in settings and "target" not in settings:
        assert float(losses.terms["segments"].detach()) == 0.0


def test_streams_without_scans_or_rays_are_no_harm(labelled, unlabelled):
    method = build()
    empty = PointBatch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 0)
    empty = replace(empty, rays=no_rays(0))
    for pair in ((labelled, empty), (empty, unlabelled), (labelled, replace(unlabelled, rays=no_rays(2)))):
        losses = method(*pair, 0.5, generator())
        losses.total.backward()
        assert torch.isfinite(losses.total)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
        method.zero_grad()


def test_it_gets_better_at_segments_and_its_labels_get_right(labelled, unlabelled):
    method = build(
        entropy_threshold=0.6,
        warm_up_ratio=0.0,
        segment_ramp_ratio=0.0,
        min_opacity=0.3,
        log_truth=True,
        lovasz_weight=1.0,
    )
    optimiser = torch.optim.AdamW(method.parameters(), lr=0.01)
    said = []
    for step in range(60):
        losses = method(labelled, unlabelled, step / 60, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        said.append(losses)
    first, last = said[0], said[-1]
    assert float(last.terms["rendered"].detach()) < 0.3 * float(first.terms["rendered"].detach())
    assert float(last.terms["depth"].detach()) < 0.5 * float(first.terms["depth"].detach())
    assert float(last.stats["segment_keep_ratio"]) == 1.0
    assert float(last.stats["pseudo_precision_ratio"]) > 0.95
    assert float(last.stats["pseudo_recall_ratio"]) > 0.7


def test_projected_labels_points_by_their_segments(labelled, unlabelled):
    method = build(target="projected", rendered_weight=0.0, depth_weight=0.0, warm_up_ratio=0.0, segment_ramp_ratio=0.0)
    assert method.head is None  # nothing is rendered
    assert method.rays.point_segments
    assert (method.rays.beams, method.rays.per_image, method.rays.to_points) == (0, 0, 0)
    terms = method(labelled, unlabelled, 0.5, generator()).terms
    assert set(terms) == {"cross_entropy", "lovasz", "segments"}
    other = build(target="projected", rendered_weight=0.0, depth_weight=0.0)
    other.student(labelled)
    output = other.student(unlabelled)
    segments = other._of_points(output, unlabelled)
    assert len(segments.group) == 8  # four classes in each of two scans
    torch.testing.assert_close(terms["segments"], 0.5 * cross_entropy(output.point_logits, segments.of_members))


def test_both_targets_are_scored_on_the_same_pixels(labelled, unlabelled):
    for settings in ({"min_opacity": 0.0}, {"target": "projected"}):
        method = build(log_truth=True, entropy_threshold=1.0, **settings)
        assert method.rays.truth
        assert method.rays.per_image == 1024
        stats = method(labelled, unlabelled, 0.5, generator()).stats
        assert 0 <= float(stats["pseudo_precision_ratio"]) <= 1
        assert float(stats["pseudo_recall_ratio"]) == pytest.approx(
            float(stats["pseudo_precision_ratio"])
        )  # all labelled


def test_looking_at_the_truth_changes_nothing_that_projected_labels_teach(labelled, unlabelled):
    terms, stats = {}, {}
    for looks in (False, True):
        scans = unlabelled
        if not looks:  # the reader draws no pixels then
            scans = replace(unlabelled, rays=unlabelled.rays.select(unlabelled.rays.extras[RAY_CAMERA] == LIDAR))
        losses = build(target="projected", log_truth=looks)(labelled, scans, 0.5, generator())
        terms[looks], stats[looks] = losses.terms, losses.stats
    for name, value in terms[False].items():
        torch.testing.assert_close(terms[True][name], value)
    assert "pseudo_precision_ratio" in stats[True]
    assert "beam_opacity_ratio" in stats[True]
    assert "pixel_opacity_ratio" not in stats[True]


def test_rays_that_end_above_the_grid_teach_nothing(labelled, unlabelled):
    """Of a grid that ends below the walls' tops: no cell could answer for them, only those they cross."""
    low = MODELS["cylinder3d"].model_copy(update={"height_m": (-3.0, 1.0)})
    torch.manual_seed(0)
    method = build_method(schema.Recipe(model=low, method=schema.NeRF(**SMALL)), SENSOR, NUM_CLASSES).train()
    rays = labelled.rays
    end_z_m = (rays.origins + rays.depth_m[:, None] * rays.directions)[:, 2]
    step_m = 4.0 / 15  # the topmost layer of cells holds what is squashed into it
    is_above = end_z_m >= 1.0
    assert 100 < int(is_above.sum()) < 1000
    assert not (is_above & (end_z_m < 1.0 - step_m)).any()
    wrong = torch.where(is_above, (rays.labels + 1) % NUM_CLASSES, rays.labels)
    moved = replace(rays, labels=wrong, depth_m=torch.where(is_above, rays.depth_m + 0.5, rays.depth_m))
    terms = [method(replace(labelled, rays=each), unlabelled, 0.5, generator()).terms for each in (rays, moved)]
    for name in ("rendered", "depth"):
        torch.testing.assert_close(terms[1][name], terms[0][name])


@pytest.mark.parametrize(("voxel_m", "expected_m"), [(0.05, 0.1), (0.75, 0.2)])
def test_a_step_is_no_longer_than_a_lone_cell_reaches(voxel_m, expected_m, labelled):
    model = schema.MinkUNet(depth=14, width_factor=0.125, voxel_size_m=voxel_m)
    method = schema.NeRF(**{**SMALL, "step_m": None})
    built = build_method(schema.Recipe(model=model, method=method), SENSOR, NUM_CLASSES)
    assert module._step_m(built.recipe, built.student(labelled)) == pytest.approx(expected_m)


def test_without_masks_every_pixel_is_its_own_segment(labelled, unlabelled):
    method = build(masks="none", min_opacity=0.0, entropy_threshold=1.0)
    stats = method(labelled, unlabelled, 0.5, generator()).stats
    counts = sum(float(stats[f"pseudo_class_{kind}_count"]) for kind in range(NUM_CLASSES))
    assert counts == pytest.approx(800, abs=80)  # two scans of 400 pixels; those that met nothing have entropy 1


def test_a_teacher_renders_the_pseudo_labels_and_follows_with_its_head(labelled, unlabelled):
    method = build(teacher="ema", ema_decay=0.9)
    before = [p.clone() for p in method.teacher_head.parameters()]
    optimiser = torch.optim.AdamW(method.parameters(), lr=0.01)
    method(labelled, unlabelled, 0.5, generator()).total.backward()
    optimiser.step()
    method.after_step(0.5)
    assert all(p.grad is None for p in (*method.teacher.parameters(), *method.teacher_head.parameters()))
    for old, mine, theirs in zip(before, method.teacher_head.parameters(), method.head.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.9 * old + 0.1 * theirs)
    assert list(method.segmentors()) == ["student", "teacher"]


def test_the_teachers_head_warms_up_with_its_backbone(labelled, unlabelled):
    method = build(teacher="ema", ema_warm_up=True)
    for parameter in (*method.student.parameters(), *method.head.parameters()):
        parameter.data += 1.0
    method.after_step(0.5)
    for mine, theirs in (
        *zip(method.teacher.model.parameters(), method.student.parameters(), strict=True),
        *zip(method.teacher_head.parameters(), method.head.parameters(), strict=True),
    ):
        torch.testing.assert_close(mine, theirs)  # the mean of the one student there was


def test_lasermix_on_top_mixes_points_and_renders_unmixed_scans(labelled, unlabelled):
    method = build(mixing={"confidence": 0.0, "mix_weight": 0.5, "consistency_weight": 3.0})
    assert method.recipe.pairs_scans
    terms = method(labelled, unlabelled, 0.5, generator()).terms
    alone = build()(labelled, unlabelled, 0.5, generator()).terms
    assert set(terms) - set(alone) == {"mix_cross_entropy", "mix_lovasz", "consistency"}
    for name in alone:
        torch.testing.assert_close(terms[name], alone[name])
    assert list(method.segmentors())[-1] == "teacher"


def test_lasermix_on_top_keeps_its_own_rules(labelled, unlabelled):
    """Its ramp, its memory in shares of the schedule, and its teacher is the one to deploy."""
    settings = {"confidence": 0.0, "consistency_weight": 3.0, "ramp_up_ratio": 0.5, "ema_memory_ratio": 0.01}
    method = build(mixing=settings)
    plain = build(mixing={"confidence": 0.0, "consistency_weight": 3.0})
    early, full = (made(labelled, unlabelled, 0.25, generator()).terms for made in (method, plain))
    for name in ("mix_cross_entropy", "mix_lovasz", "consistency"):
        torch.testing.assert_close(early[name], math.exp(-5 * 0.25) * full[name])
    assert method.teacher.decay == pytest.approx(1 - 1 / 600)  # 60,000 steps by default
    assert plain.teacher.decay == 0.99
    assert method.deployed == "teacher"
    assert method.deployed_model is method.teacher.model
    assert build().deployed == "student"


def test_the_head_is_for_training_only(labelled, unlabelled):
    """What is exported has no part of it, and says bit for bit what a supervised student of the same weights says."""
    method = build()
    optimiser = torch.optim.AdamW(method.parameters(), lr=0.01)
    method(labelled, unlabelled, 0.5, generator()).total.backward()
    optimiser.step()
    ((name, exported),) = method.segmentors().items()
    assert name == "student"
    plain = build_method(schema.Recipe(model=MODELS["cylinder3d"], method=schema.Supervised()), SENSOR, NUM_CLASSES)
    plain.student.load_state_dict(exported.state_dict())  # strict: not one key more or less
    with torch.no_grad():
        said = exported.eval()(unlabelled).point_logits
        assert torch.equal(plain.student.eval()(unlabelled).point_logits, said)


def test_range_view_models_are_refused_in_one_sentence():
    model = schema.FIDNet(height_px=16, width_px=64, width_factor=0.125, blocks=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"method nerf looks through cells in space, .*set model\.name to cylinder3d"):
        schema.Recipe(model=model, method=schema.NeRF())
    student = build_method(schema.Recipe(model=model, method=schema.Supervised()), SENSOR, NUM_CLASSES).student
    with pytest.raises(RecipeError, match=r"method nerf looks through cells in space, .*set model\.name to cylinder3d"):
        module.NeRF(student, schema.NeRF(), SENSOR)


def test_scans_without_rays_are_refused(labelled, unlabelled):
    with pytest.raises(RecipeError, match="method nerf needs rays with its scans"):
        build()(replace(labelled, rays=None), unlabelled, 0.0, generator())


def test_projected_without_masks_makes_no_sense():
    with pytest.raises(ValueError, match="leaves nothing to group by"):
        schema.NeRF(target="projected", masks="none")
    with pytest.raises(ValueError, match="near_m must be below far_m"):
        schema.NeRF(near_m=5.0, far_m=5.0)


def test_the_worlds_recipe_trains_it_and_the_flag_puts_it_on_any_voxel_model():
    recipe = load_recipe("cylinder3d-world")
    assert (recipe.method.name, recipe.method.masks) == ("nerf", "sam")
    assert load_recipe("cylinder3d-world", method="supervised").model == recipe.model
    for name in ("cylinder3d-nuscenes", "minkunet-semantickitti", "spvcnn-nuscenes"):
        method = load_recipe(name, method="nerf", labels="1%").method
        assert (method.mixing, method.segment_weight) == (None, 0.5)  # nothing left of the file's lasermix
    with pytest.raises(RecipeError, match="method nerf looks through cells in space"):
        load_recipe("fidnet-nuscenes", method="nerf")


def _rank(rank: int, place: str, results: multiprocessing.SimpleQueue) -> None:
    """One step of one rank; rank 0 looks at the sky."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    labelled, unlabelled = with_rays(scan(rank), True), with_rays(scan(2 + rank), False)
    if not rank:
        up = torch.tensor([0.0, 0.0, 1.0])
        high = lambda rays: replace(rays, directions=up.expand_as(rays.directions), origins=rays.origins + 10 * up)  # noqa: E731
        labelled, unlabelled = (replace(scans, rays=high(scans.rays)) for scans in (labelled, unlabelled))
    method = DistributedDataParallel(build())
    method(labelled, unlabelled, 0.5, generator()).total.backward()
    gradients = torch.cat([p.grad.flatten() for p in method.parameters()])
    results.put((bool(gradients.isfinite().all()), gradients.double().sum().item(), bool(gradients.any())))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_a_rank_without_a_hit_shares_its_gradients_like_any_other(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    ranks = [context.Process(target=_rank, args=(rank, str(tmp_path / "meet"), results)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(90)
    alive = [process.kill() for process in ranks if process.is_alive()]
    assert not alive, "a rank still waits for the other"
    assert [process.exitcode for process in ranks] == [0, 0]
    (finite, total, some), other = results.get(), results.get()
    assert finite
    assert some
    assert other == (True, total, True)  # the mean over both ranks, the same on both
