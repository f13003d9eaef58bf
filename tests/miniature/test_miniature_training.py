import math

import numpy as np
import pytest
import torch

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.clip import vit_features
from ray_lidarseg.foundation.clip_architecture import build_clip_miniature
from ray_lidarseg.foundation.sam_architecture import build_sam
from ray_lidarseg.miniature import clip_training as clip
from ray_lidarseg.miniature import mask_losses, shipping
from ray_lidarseg.miniature import sam_training as sam
from ray_lidarseg.miniature.captions import CLASSES, draw_sentences
from ray_lidarseg.miniature.fitting import Fitting, Plan
from ray_lidarseg.miniature.training_pictures import TruePicture


def two_halves(width: int = 64, height: int = 36) -> TruePicture:
    """Bright sky above dark road."""
    classes = np.full((height, width), 16, np.uint8)
    classes[height // 2 :] = 10
    image = np.where(classes[..., None] == 16, np.uint8(220), np.uint8(60)).repeat(3, axis=2)
    return TruePicture(image, classes, np.zeros_like(classes), (classes == 10).astype(np.uint16) + 1)


def test_balanced_loss_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0), math.log(7.0)]]])
    target, valid = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.ones(1, 1, 3)
    by_hand = (math.log(2) + (math.log(4) + math.log(8)) / 2) / 2
    assert mask_losses.balanced_loss(logits, target, valid).item() == pytest.approx(by_hand, rel=1e-5)
    found = mask_losses.balanced_loss(logits, target, torch.tensor([[[1.0, 1.0, 0.0]]])).item()
    assert found == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-5)


def test_dice_loss_by_hand():
    logits, target = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[1.0, 0.0]]])
    assert mask_losses.dice_loss(logits, target, torch.ones(1, 1, 2)).item() == pytest.approx(1 - (2 * 0.5 + 1) / 3)


def test_mask_iou_by_hand():
    inside = torch.tensor([[[True, True, False]], [[False, False, False]]])
    target = torch.tensor([[[True, False, True]], [[False, False, False]]])
    assert mask_losses.mask_iou(inside, target).tolist() == pytest.approx([1 / 3, 0.0])


def test_the_best_of_three_answers_counts_and_predicted_iou_is_judged():
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[0, :2] = True
    right = torch.where(target[0], 20.0, -20.0)
    valid = torch.ones(4, 4, dtype=torch.bool)
    good, bad = torch.stack([-right, right, -right])[None], torch.stack([-right, -right, -right])[None]
    ious = torch.tensor([[0.0, 1.0, 0.0]])
    losses = mask_losses.prompt_losses(good, ious, target, valid)
    assert losses["iou"].item() == 0
    assert mask_losses.prompt_losses(good, 1 - ious, target, valid)["iou"].item() == 1
    assert mask_losses.prompt_losses(bad, ious, target, valid)["mask"] > losses["mask"] + 10


def test_affinity_is_low_where_embeddings_follow_the_segments():
    segments = torch.tensor([[1, 1, 2, 2], [1, 1, 0, 2]])
    apart = torch.zeros(2, 2, 4)
    apart[0], apart[1] = (segments == 1).float(), (segments != 1).float()
    chosen = torch.arange(8)
    near, far = math.log1p(math.exp(-5)), math.log1p(math.exp(-5))
    assert mask_losses.affinity_loss(apart, segments, chosen).item() == pytest.approx((near + far) / 2, rel=1e-4)
    together = torch.ones(2, 2, 4)
    assert mask_losses.affinity_loss(together, segments, chosen).item() == pytest.approx(
        (near + 5 + near) / 2, rel=1e-4
    )


def test_points_lie_in_their_segments_and_padding_counts_for_nothing():
    model = build_sam("miniature")
    entry = sam.prompted(model, two_halves(), np.random.default_rng(0), 16)
    assert entry.image.shape == (3, 256, 256)
    assert entry.valid.sum() == 72 * 128
    for (x, y), mask in zip(entry.points.long().tolist(), entry.target, strict=True):
        assert mask[y // 2, x // 2]
        assert mask.sum() == 36 * 128
    assert (entry.image[:, 144:] == 0).all()


def test_a_few_steps_on_one_picture_lower_sams_loss(tmp_path):
    torch.manual_seed(0)
    model = build_sam("miniature").train()
    batch = [sam.prompted(model, two_halves(), np.random.default_rng(0), 4)]
    fitting = Fitting(model, Plan(steps=10, peak_rate=2e-3, warm_up=2), tmp_path)
    totals = [sum(fitting.advance(lambda rng: sam.batch_losses(model, batch, rng)).values()) for _ in range(10)]
    assert np.mean(totals[-2:]) < 0.75 * totals[0]


def test_a_few_steps_on_one_picture_lower_clips_loss(tmp_path):
    model = build_clip_miniature().train()
    sentences = draw_sentences(CLASSES, np.random.default_rng(0))
    fitting = Fitting(model, Plan(steps=12, peak_rate=1e-3, warm_up=2), tmp_path)
    weights = torch.ones(len(CLASSES))
    totals = [
        sum(fitting.advance(lambda _: clip.batch_losses(model, [two_halves()], CLASSES, sentences, weights)).values())
        for _ in range(12)
    ]
    assert totals[-1] < 0.6 * totals[0]


def test_the_trained_patches_are_the_ones_the_teacher_gives():
    model = build_clip_miniature()
    pixels = torch.randn(2, 3, 112, 200, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        patches, whole = clip.both_features(model, pixels)
        torch.testing.assert_close(patches, vit_features(model.visual, pixels)[:, -350:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole, model.encode_image(pixels), rtol=1e-4, atol=1e-5)


def test_patch_shares_by_hand():
    model = build_clip_miniature()
    shares = clip.patch_shares(model, two_halves(200, 112), CLASSES).reshape(14, 25, -1)
    assert (shares[:7, :, 16] == 1).all()
    assert (shares[7:, :, 10] == 1).all()
    assert shares.sum() == 350


def test_share_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    shares = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    by_hand = (2 * 0.5 * math.log(2) + 1 * math.log(4)) / (2 * 0.5 + 1)
    assert clip.share_loss(logits, shares, torch.tensor([2.0, 1.0])).item() == pytest.approx(by_hand, rel=1e-5)


def test_the_rate_rises_then_falls_to_a_hundredth():
    plan = Plan(steps=100, peak_rate=1.0, warm_up=10)
    assert plan.rate(0) == pytest.approx(0.1)
    assert plan.rate(10) == pytest.approx(1.0)
    assert plan.rate(55) == pytest.approx(0.01 + 0.99 / 2)
    assert plan.rate(100) == pytest.approx(0.01)


def test_a_stopped_training_continues_as_if_it_had_not(tmp_path):
    def run(folder, stops):
        for stop in stops:
            torch.manual_seed(0)
            model = torch.nn.Linear(3, 1)
            fitting = Fitting(model, Plan(steps=8, peak_rate=0.1, check_every=2, warm_up=1), folder)
            fitting.resume()
            qualities = iter(range(10))

            def loss(rng, model=model):
                return {"square": model(torch.from_numpy(rng.normal(size=(4, 3))).float()).square().mean()}

            def quality(fitting=fitting, stop=stop, qualities=qualities):
                return float(next(qualities)) + fitting.step

            fitting.plan = Plan(steps=8, peak_rate=0.1, check_every=2, warm_up=1)
            while fitting.step < stop:
                fitting.advance(loss)
            fitting._look(quality(), {}, 0.0)
        return model.weight.detach().clone()

    torch.testing.assert_close(run(tmp_path / "once", [8]), run(tmp_path / "twice", [4, 8]))


def test_shipping_needs_trained_weights(tmp_path):
    with pytest.raises(DataError, match=r"no trained weights at .*miniature sam"):
        shipping.ship_sam(tmp_path / "none.safetensors", tmp_path)
