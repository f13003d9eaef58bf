"""Trains the miniature SAM and CLIP on the synthetic world, and prints how good they are.

``python -m ray_lidarseg.miniature`` runs all stages in their order: ``images`` (renders pictures with their
truth), ``sam``, ``clip``, ``ship`` (weights as float16 files) and ``measure``. Name some to run only these; ``sam`` and
``clip`` can run side by side. Every stage continues where it was stopped. One thread is enough; on one core of its own
the whole takes about half an hour.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import torch

from ray_lidarseg.foundation.checkpoint_files import shipped_weights
from ray_lidarseg.foundation.clip import Clip
from ray_lidarseg.foundation.settings import MINIATURE_SAM, ClipFeatures, SamMasks
from ray_lidarseg.miniature import clip_training as clip
from ray_lidarseg.miniature import sam_training as sam
from ray_lidarseg.miniature.measure import clip_report, sam_report
from ray_lidarseg.miniature.shipping import CLIP_FOLDER, SAM_FILE, ship_clip, ship_sam
from ray_lidarseg.miniature.training_pictures import (
    CHOICE_SEED,
    TEST_SEED,
    TRAIN_SEED,
    TruePicture,
    load_pictures,
    render_pictures,
)

_STAGES = ("images", "sam", "clip", "ship", "measure")
_HELD_OUT_SCENES = 8
_SAM_EVERY, _CLIP_EVERY, _TEST_EVERY = 3, 2, 4


def main(arguments: list[str] | None = None) -> None:
    """Runs the stages that are asked for."""
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    for stage in [stage for stage in _STAGES if stage in (args.stages or _STAGES)]:
        _RUN[stage](args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ray_lidarseg.miniature", description=__doc__)
    parser.add_argument("stages", nargs="*", choices=[[], *_STAGES], help="default: all")
    parser.add_argument("--folder", type=Path, default=Path("miniature"), help="pictures and training states")
    parser.add_argument(
        "--weights", type=Path, help="where shipped weights lie (default: in FOLDER for ship, then these)"
    )
    parser.add_argument("--scenes", type=int, default=60, help="training scenes of 12 pictures")
    parser.add_argument("--sam-steps", type=int, default=sam.PLAN.steps)
    parser.add_argument("--clip-steps", type=int, default=clip.PLAN.steps)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def _images(args: argparse.Namespace) -> None:
    render_pictures(args.folder / "pictures", TRAIN_SEED, args.scenes)
    for seed in (CHOICE_SEED, TEST_SEED):
        render_pictures(args.folder / "pictures", seed, _HELD_OUT_SCENES)


def _sam(args: argparse.Namespace) -> None:
    plan = replace(sam.PLAN, steps=args.sam_steps)
    sam.train_sam(_training(args), _held_out(args, CHOICE_SEED, _SAM_EVERY), args.folder / "sam", plan)


def _clip(args: argparse.Namespace) -> None:
    plan = replace(clip.PLAN, steps=args.clip_steps)
    clip.train_clip(_training(args), _held_out(args, CHOICE_SEED, _CLIP_EVERY), args.folder / "clip", plan)


def _ship(args: argparse.Namespace) -> None:
    target = args.weights or args.folder / "weights"
    print(ship_sam(args.folder / "sam" / "best.safetensors", target))
    print(ship_clip(args.folder / "clip" / "best.safetensors", target))


def _measure(args: argparse.Namespace) -> None:
    own = args.weights or args.folder / "weights"
    weights = own if own.is_dir() else shipped_weights(SAM_FILE).parent
    pictures = _held_out(args, TEST_SEED, _TEST_EVERY)
    print(f"{weights}, {len(pictures)} pictures of world seed {TEST_SEED}")
    print(sam_report(SamMasks(checkpoint=str(weights / SAM_FILE), **MINIATURE_SAM), pictures))
    print(clip_report(Clip(ClipFeatures(checkpoint=f"local-dir:{weights / CLIP_FOLDER}"), "cpu"), pictures))


def _training(args: argparse.Namespace) -> list[TruePicture]:
    return load_pictures(args.folder / "pictures", TRAIN_SEED, args.scenes)


def _held_out(args: argparse.Namespace, seed: int, every: int) -> list[TruePicture]:
    return load_pictures(args.folder / "pictures", seed, _HELD_OUT_SCENES)[::every]


_RUN = {"images": _images, "sam": _sam, "clip": _clip, "ship": _ship, "measure": _measure}

if __name__ == "__main__":
    main()
