"""``ray-lidarseg <verb>``: one sub-command per file of the upper floor; a verb's imports happen when it runs.

The parsers live here and not beside the verbs, so that ``--help`` never imports torch or Ray.
"""

import argparse
import io
import sys
from collections.abc import Callable, Sequence

from ray_lidarseg import __version__
from ray_lidarseg.errors import LidarSegError
from ray_lidarseg.runtime.interrupts import NOBODY_READS, interruptible, reader_is_gone, status_of

_SPLITS = ("train", "val", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        Exit status: 0 done, 1 the verb's own check failed, 2 bad input or a lost cluster (one message, no traceback),
        130 interrupted by Ctrl-C, 143 by SIGTERM, 141 where nobody reads the output any more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an arrow in a message must not end a verb on a Latin-1 terminal
    args = build_parser().parse_args(argv)
    goes_on = "" if args.verb == "submit" else "; the same command continues"  # there it would start a second job
    farewell = f"ray-lidarseg {args.verb}: interrupted{goes_on}"
    try:
        with interruptible(farewell):
            status = int(args.run(args) or 0)
            sys.stdout.flush()  # what fails at exit is a traceback
            return status
    except BrokenPipeError:
        if not reader_is_gone():
            raise
        return NOBODY_READS
    except LidarSegError as error:
        print(f"ray-lidarseg {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(farewell, file=sys.stderr)
        return status_of(interruption)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="ray-lidarseg", description="Semi-supervised LiDAR segmentation on Ray.")
    parser.add_argument("--version", action="version", version=f"ray-lidarseg {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    before_models = (_demo, _world, _index, _validate, _prepare)
    of_models = (_train, _sweep, _evaluate, _probe, _prototypes, _export, _predict)
    for add in (*before_models, *of_models, _archive, _view, _report, _recipe, _submit, _doctor):
        add(verbs)
    return parser


Verbs = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _verb(verbs: Verbs, name: str, about: str, run: Callable[[argparse.Namespace], object]) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: expected a whole number of at least 0")
    return int(text)


def _demo(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.demo import demo

        demo(out=args.out, steps=args.steps, seed=args.seed, preset=args.preset, ratio=args.ratio)

    parser = _verb(verbs, "demo", "the main job end to end on the built-in world: no download", run)
    parser.add_argument("--out", default="demo", help="folder for everything the demo writes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="training steps; 0: as in the recipe (default)")
    parser.add_argument(
        "--seed", type=_seed, default=0, help="seed of world, split and training (default: %(default)s)"
    )
    parser.add_argument("--preset", default="demo", help="world preset (default: %(default)s)")
    parser.add_argument(
        "--ratio", type=float, default=0.0, help="share of labelled frames; 0: as in the recipe (default)"
    )


def _world(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.synthetic.options import parse_options
        from ray_lidarseg.world import generate

        options = parse_options(args.options)
        generate(preset=args.preset, out=args.out, seed=args.seed, options=options, frequencies=args.frequencies)

    parser = _verb(verbs, "world", "generate a synthetic driving log in nuScenes or SemanticKITTI format", run)
    parser.add_argument(
        "--preset", default="demo", help="size of the world: tiny, demo, bench, kitti (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="options", help="e.g. beams=64, rate_hz=10"
    )
    parser.add_argument("--frequencies", action="store_true", help="print class shares beside the real data set's")
    parser.add_argument("--out", required=True, help="root folder of the data set")
    parser.add_argument("--seed", type=_seed, default=0)


def _index(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.index import index

        index(
            dataset=args.dataset,
            root=args.root,
            out=args.out,
            version=args.version,
            label_dir=args.labels,
            ontology=args.ontology,
        )

    parser = _verb(verbs, "index", "list a data set's key-frames: one Parquet row each, by URI", run)
    parser.add_argument("dataset", help="manifest for own logs, or the name of a data set (an unknown one lists them)")
    parser.add_argument(
        "root",
        help="data root: holds v1.0-*/ and samples/, or sequences/, or leftImg8bit/; or a .jsonl/.parquet manifest",
    )
    parser.add_argument("--ontology", default="", help="YAML file with classes and LiDAR of a manifest")
    parser.add_argument("--out", required=True, help="index file to write (.parquet)")
    parser.add_argument("--version", default="v1.0-mini", help="nuScenes table folder (default: %(default)s)")
    parser.add_argument(
        "--labels", default="labels", choices=("labels", "scribbles"), help="SemanticKITTI or ScribbleKITTI labels"
    )


def _validate(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> int:
        from ray_lidarseg.validate import validate

        return validate(data=args.data, sample=args.sample, seed=args.seed, json_out=args.json)

    parser = _verb(verbs, "validate", "what is wrong with a data set and how to fix it; status 1 on errors", run)
    parser.add_argument("data", help="what `index` wrote, or a folder of prepared shards")
    parser.add_argument("--sample", type=int, default=50, help="frames to read; 0: all (default: %(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--json", default="", help="file for the findings as JSON")


def _prepare(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.prepare import Teachers, estimate, prepare, status
        from ray_lidarseg.runtime.pool import Actors

        if args.status:
            status(index=args.index, out=args.out, image_splits=args.image_splits)
            return
        teachers = Teachers.of(args.masks, args.features, args.overrides)
        actors = Actors.of(args.actors, args.cpus, args.gpus)
        if args.estimate:
            estimate(args.index, args.out, teachers, actors, args.sample, args.price_per_hour, args.image_splits)
        else:
            limit, retry = args.max_failed_ratio, args.retry_failed
            prepare(args.index, args.out, limit, teachers, actors, retry, args.image_splits)

    about = "decode an index into Parquet shards, and show its images to teachers; resumes by frame"
    parser = _verb(verbs, "prepare", about, run)
    parser.add_argument("index", help="what `index` wrote")
    parser.add_argument("--out", required=True, help="folder or s3:// URI for the shards")
    parser.add_argument(
        "--max-failed-ratio", type=float, default=0.01, help="share of broken frames the job survives (default: 0.01)"
    )
    teachers = parser.add_argument_group("image teachers (each makes a layer beside the shards)")
    teachers.add_argument("--masks", default="", choices=("slic", "sam", "files"), help="segments of every image")
    teachers.add_argument("--features", default="", choices=("clip", "timm"), help="a feature of every segment")
    teachers.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KIND.KEY=VALUE",
        dest="overrides",
        help="e.g. masks.checkpoint=s3://b/sam_vit_h.pth, features.image_size=224,416, pairs.occlusion=no",
    )
    teachers.add_argument(
        "--image-splits",
        nargs="+",
        default=(),
        choices=_SPLITS,
        help="show images of these splits only; training reads no others (default: all)",
    )
    actors = parser.add_argument_group("actors of the teachers")
    actors.add_argument("--actors", default="", metavar="MIN:MAX", help="pool size (default: 1 to all that fit)")
    actors.add_argument("--cpus", type=float, default=1.0, help="CPUs, and threads, of each (default: 1)")
    actors.add_argument("--gpus", default="auto", help="GPUs of each, 0.5 lets two share one (default: 1 if any)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--status", action="store_true", help="only say what is done, left and failed")
    instead.add_argument("--estimate", action="store_true", help="only measure a few frames: hours, bytes and cost")
    instead.add_argument("--retry-failed", action="store_true", help="try the failed frames, and no others")
    parser.add_argument("--sample", type=int, default=4, help="frames --estimate measures (default: %(default)s)")
    parser.add_argument(
        "--price-per-hour", type=float, default=0.0, help="of one actor's share of a node: for --estimate"
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="YAML file, or the name of a built-in recipe")
    _add_changes(parser)


def _add_changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="", metavar="NAME", help="another method, on the recipe's settings")
    parser.add_argument("--labels", default="", metavar="SHARE", help="labelled share of the frames: 10%%, 1/16, 0.1")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="e.g. method.confidence=0.9"
    )


def _train(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.datasets.entries import check_recipe
        from ray_lidarseg.recipe.load import load_recipe
        from ray_lidarseg.train import train
        from ray_lidarseg.training.completion import complete_paths

        recipe = complete_paths(check_recipe(load_recipe(args.recipe, args.overrides, args.method, args.labels)))
        train(recipe, args.run_folder or f"runs/{recipe.name}-{recipe.fingerprint}")

    parser = _verb(verbs, "train", "train a recipe on Ray; the same command resumes", run)
    _add_recipe(parser)
    parser.add_argument(
        "--run", dest="run_folder", default="", help="run folder or s3:// URI (default: runs/NAME-HASH)"
    )


def _sweep(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.datasets.entries import check_recipe
        from ray_lidarseg.errors import RecipeError
        from ray_lidarseg.recipe.load import load_recipe
        from ray_lidarseg.sweep import list_studies, sweep

        if not args.study:
            print(list_studies())
            return
        if not args.recipe or not args.out:
            raise RecipeError("give --recipe (what every trial starts from) and --out (the sweep's folder)")
        recipe = check_recipe(load_recipe(args.recipe, args.overrides, args.method, args.labels))
        sweep(args.study, recipe, args.out, args.changes, args.price_per_hour, args.retry_failed)

    parser = _verb(verbs, "sweep", "train every trial of a study on Ray Tune; the same command continues", run)
    parser.add_argument("study", nargs="?", default="", help="YAML file, or a shipped study; without one, list them")
    parser.add_argument("--recipe", default="", help="YAML file or name of the recipe every trial starts from")
    _add_changes(parser)
    parser.add_argument(
        "--study",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="a line of the study, e.g. seeds=[0,1] or space.split.ratio=[1%%,10%%]",
    )
    parser.add_argument("--out", default="", help="folder or s3:// URI for trials, table and best recipe")
    parser.add_argument("--price-per-hour", type=float, default=0.0, help="of one training worker's share of a node")
    parser.add_argument("--retry-failed", action="store_true", help="try trials that failed before again")


def _evaluate(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.errors import RunError
        from ray_lidarseg.evaluate import evaluate, evaluate_robustness
        from ray_lidarseg.training.inference_options import InferenceOptions

        options = InferenceOptions(args.tta, args.knn, tuple(args.ensemble))
        chosen = {"prepared": args.prepared, "split": args.split, "which": args.checkpoint, "options": options}
        if args.baseline and not args.robustness:
            raise RunError("--baseline is what errors under corruption are relative to: give --robustness, too")
        if args.words and (args.robustness or options.name):
            raise RunError("--words asks plain evaluation: leave --robustness, --tta, --knn and --ensemble out")
        if args.robustness:
            evaluate_robustness(run=args.run_folder, baseline=args.baseline, **chosen)
        else:
            evaluate(run=args.run_folder, **chosen, words=args.words)

    parser = _verb(verbs, "evaluate", "mIoU of a run's models: by point, cell and distance, or under corruption", run)
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument("--prepared", default="", help="other shards than the recipe's")
    parser.add_argument("--split", default="val", choices=_SPLITS, help="whose labelled frames (default: %(default)s)")
    parser.add_argument(
        "--checkpoint", default="latest", help="latest, best by validation, or a step (default: %(default)s)"
    )
    parser.add_argument(
        "--robustness", action="store_true", help="clean and under 8 corruptions x 3 severities: mRR and mCE; resumes"
    )
    parser.add_argument(
        "--baseline", default="", help="of mCE: minkunet18 (official val alone), or a run scored on the same frames"
    )
    parser.add_argument(
        "--words", default="", help="of a distilled network: class embeddings (.npz) instead of its own"
    )
    _add_inference(parser)


def _add_inference(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("better and slower answers (reported apart)")
    group.add_argument("--tta", type=int, default=1, metavar="VIEWS", help="mean over 2 to 8 views of each scan")
    group.add_argument("--knn", action="store_true", help="FIDNet: points vote among the pixels nearest in range")
    group.add_argument("--ensemble", nargs="+", default=(), metavar="RUN", help="mean with the models of further runs")


def _probe(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.probe import probe

        ratios, seeds, linear = args.ratios, args.seeds, not args.no_linear
        probe(args.runs, args.out, args.recipe, args.overrides, ratios, seeds, linear, args.words)

    parser = _verb(verbs, "probe", "what pre-trained networks are worth: zero-shot, linear probe, few-shot", run)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out", default="probe", help="folder for the trainings and the table (default: %(default)s)")
    parser.add_argument("--recipe", default="", help="downstream recipe, also of another data set (default: the run's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="e.g. train.steps=2000"
    )
    parser.add_argument(
        "--ratios", nargs="+", type=float, default=[0.01], help="shares of labels to fine-tune on (default: 0.01)"
    )
    parser.add_argument("--seeds", nargs="+", type=_seed, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--no-linear", action="store_true", help="leave the linear probe out")
    parser.add_argument("--words", default="", help="as of evaluate")


def _prototypes(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.prototypes import prototypes

        where = {"pictures": args.pictures, "dataset": args.dataset, "scenes": args.scenes}
        prototypes(args.out, args.features, tuple(args.overrides), **where, prepared=args.prepared, layer=args.layer)

    parser = _verb(verbs, "prototypes", "classes by pictures instead of words, for any image teacher", run)
    parser.add_argument("--out", required=True, help="file of class embeddings to write (.npz)")
    parser.add_argument("--features", default="clip", choices=("clip", "timm"), help="image teacher")
    parser.add_argument("--set", action="append", default=[], metavar="features.KEY=VALUE", dest="overrides")
    parser.add_argument(
        "--pictures", default="", help="folder with a sub-folder a class (default: the world's pictures)"
    )
    parser.add_argument("--dataset", default="nuscenes", help="whose classes (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=6, help="drives of the world to render (default: %(default)s)")
    parser.add_argument("--prepared", default="", help="shards whose features layer lacks words: it gets these")
    parser.add_argument("--layer", default="auto", help="which features layer of --prepared (default: the only one)")


def _export(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.export import export, export_onnx

        if args.format == "onnx":
            export_onnx(args.run_folder, args.out, args.checkpoint)
        else:
            export(args.run_folder, args.out, args.teacher_licence, args.checkpoint)

    parser = _verb(verbs, "export", "a run's network as .safetensors with a card of what it was made of, or ONNX", run)
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument("--out", required=True, help="folder for model.safetensors and README.md, or model.onnx")
    parser.add_argument(
        "--format", default="safetensors", choices=("safetensors", "onnx"), help="onnx: FIDNet only (%(default)s)"
    )
    parser.add_argument("--teacher-licence", default="", help="of the image teacher's weights, for the card")
    parser.add_argument("--checkpoint", default="latest", help="latest, or a step (default: %(default)s)")


def _predict(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> int:
        from ray_lidarseg.predict import predict
        from ray_lidarseg.training.inference_options import InferenceOptions

        report = predict(
            run=args.run_folder,
            out=args.out,
            prepared=args.prepared,
            index=args.index,
            scans=args.scans,
            columns=args.columns,
            split=args.split,
            file_format=args.format,
            which=args.checkpoint,
            options=InferenceOptions(args.tta, args.knn, tuple(args.ensemble)),
        )
        return 1 if report.failed else 0

    parser = _verb(verbs, "predict", "label scans, with confidence: for benchmarks, viewers and labelling tools", run)
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument("--out", required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prepared", default="", help="prepared shards")
    source.add_argument("--index", default="", help="what `index` wrote")
    source.add_argument("--scans", nargs="+", default=(), help="scan files, float32 .bin")
    parser.add_argument("--columns", type=int, default=0, help="float32 columns of --scans; 0: from the name and size")
    parser.add_argument(
        "--split", default="test", choices=_SPLITS, help="which frames of --prepared or --index (default: %(default)s)"
    )
    parser.add_argument(
        "--format",
        default="label",
        choices=("label", "lidarseg", "pcd", "ply", "las"),
        help="SemanticKITTI, nuScenes, or points with colour, label, confidence and error (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint", default="latest", help="latest, best by validation, or a step (default: %(default)s)"
    )
    _add_inference(parser)


def _archive(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.archive import archive

        archive(predictions=args.predictions, index=args.index, out=args.out, partial=args.partial)

    parser = _verb(verbs, "archive", "predictions as the archive a benchmark's server takes, checked by its rules", run)
    parser.add_argument("predictions", metavar="PREDICTIONS", help="folder `predict` wrote: format label or lidarseg")
    parser.add_argument("--index", required=True, help="what `index` wrote: the scans of the split")
    parser.add_argument("--out", required=True, help="zip file or s3:// URI")
    parser.add_argument("--partial", action="store_true", help="although scans of the official list are missing")


def _view(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.report.view_page import view

        view(predictions=args.predictions, out=args.out, scans=args.scans, num_scans=args.num)

    parser = _verb(verbs, "view", "predictions in 3-D beside camera images: one HTML page that needs no network", run)
    parser.add_argument("predictions", metavar="PREDICTIONS", help="folder `predict` wrote")
    parser.add_argument("--out", default="view.html", help="page to write (default: %(default)s)")
    parser.add_argument("--scans", nargs="+", default=(), metavar="ID", help="frame ids (default: the least certain)")
    parser.add_argument("--num", type=int, default=4, help="how many of the least certain (default: %(default)s)")


def _report(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.report.page import report

        report(args.runs, args.out, args.predictions, prepared=args.prepared, num_frames=args.frames)

    parser = _verb(verbs, "report", "one self-contained HTML page from run folders and prepared layers", run)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders, and folders of sweeps")
    parser.add_argument("--out", default="report.html")
    parser.add_argument("--predictions", nargs="*", default=(), help="folders `predict` wrote")
    parser.add_argument("--prepared", default="", help="shards whose masks, features and zero-shot labels to picture")
    parser.add_argument("--frames", type=int, default=2, help="frames to picture (default: %(default)s)")


def _recipe(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> None:
        from ray_lidarseg.datasets.entries import check_recipe
        from ray_lidarseg.recipe.load import builtin_recipes, load_recipe

        if args.recipe:
            recipe = load_recipe(args.recipe, args.overrides, args.method, args.labels)
            print(check_recipe(recipe).to_yaml(), end="")
        else:
            print("\n".join(sorted(builtin_recipes())))

    parser = _verb(verbs, "recipe", "check a recipe and print it resolved; without a name, list the built-in ones", run)
    parser.add_argument("recipe", nargs="?", default="")
    _add_changes(parser)


def _submit(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> int:
        if bool(args.command) == bool(args.follow or args.stop):
            parser.error("expected a VERB with its arguments, or --follow JOB, or --stop JOB")
        parsed = vars(build_parser().parse_args(args.command)) if args.command else {}
        from ray_lidarseg.submit import follow, stop, submit

        if args.follow:
            return follow(args.follow, args.address)
        if args.stop:
            return stop(args.stop, args.address)
        return submit(
            args.command, parsed, args.address, not args.no_wait, args.stop_on_interrupt, args.env, args.entrypoint_cpus
        )

    parser = _verb(verbs, "submit", "run a verb as a job on a cluster; its exit status is the verb's", run)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="VERB ...", help="a verb with its arguments")
    parser.add_argument("--address", default="", metavar="URL", help="the cluster's dashboard, http://HOST:8265")
    parser.add_argument("--no-wait", action="store_true", help="only start it, and say how to come back")
    parser.add_argument(
        "--stop-on-interrupt", action="store_true", help="Ctrl-C stops the job, not the following alone"
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable of the job")
    parser.add_argument(
        "--entrypoint-cpus",
        type=float,
        default=0.0,
        metavar="N",
        help="of the driver; 0: it runs on the head (default)",
    )
    parser.add_argument("--follow", default="", metavar="JOB", help="come back to a job")
    parser.add_argument("--stop", default="", metavar="JOB", help="end a job")


def _doctor(verbs: Verbs) -> None:
    def run(args: argparse.Namespace) -> int:
        from ray_lidarseg.runtime.doctor import main as doctor

        if not args.address:
            return doctor()
        if args.address.startswith(("http://", "https://")):
            from ray_lidarseg.submit import submit

            wanted = [("--storage", uri) for uri in args.storage] + [("--checkpoint", uri) for uri in args.checkpoint]
            command = ["doctor", "--address", "auto", *(word for pair in wanted for word in pair)]
            return submit(command, vars(build_parser().parse_args(command)), args.address)
        from ray_lidarseg.runtime.node_checks import main as check_nodes

        return check_nodes(args.address, args.storage, args.checkpoint)

    parser = _verb(verbs, "doctor", "what this machine or each node of a cluster can do, and what is wrong", run)
    parser.add_argument(
        "--address", default="", metavar="ADDRESS", help="look at every node: HOST:6379, auto, or http://HOST:8265"
    )
    parser.add_argument("--storage", action="append", default=[], metavar="URI", help="writable from each node?")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="URI", help="readable from each node?")


if __name__ == "__main__":
    sys.exit(main())
