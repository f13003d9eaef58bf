"""A sweep from its first check to its table: what is wrong is said before the first trial, once."""

import math
from collections.abc import Iterable

import yaml

from ray_lidarseg import storage
from ray_lidarseg.errors import RecipeError, ResourceError, RunError, StorageError
from ray_lidarseg.recipe.load import validate_recipe
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.recipe.text_files import read_yaml, require
from ray_lidarseg.runtime import cluster
from ray_lidarseg.storage.lock import held
from ray_lidarseg.sweep.board import Board
from ray_lidarseg.sweep.result_table import BEST, CSV, best_trial, gpu_hours, write_results
from ray_lidarseg.sweep.study import Study, load_study
from ray_lidarseg.sweep.trial_queue import TrialQueue
from ray_lidarseg.sweep.trials import FOLDER, Trial, common_recipe, described, read_trials
from ray_lidarseg.training.completion import complete_paths
from ray_lidarseg.training.run_folder import RunFolder, differing_keys
from ray_lidarseg.training.tracking import duration
from ray_lidarseg.training.trainer import make_plan

FILE = "study.yaml"
_SHAPE = {"study": {"*": object}, "recipe": {"*": object}}
_MAY_CHANGE = ("question", "trials", "seeds", "metric", "mode")
"""Of a study whose sweep was begun: they make other trials or read them in another way; none is lost by it."""


def sweep(
    study: str,
    recipe: Recipe,
    out: str,
    changes: Iterable[str] = (),
    price_per_hour: float = 0.0,
    retry_failed: bool = False,
) -> list[Trial]:
    """Trains every trial of a study, or those that are left where the folder was begun before.

    Args:
        study: A shipped study's name, or a file.
        recipe: What every trial starts from, with ``data.prepared`` set.
        out: Path or ``s3://`` URI of the sweep's folder; created where absent.
        changes: ``KEY=VALUE`` of the study.
        price_per_hour: Of one training worker's share of a node.
        retry_failed: Whether trials that failed before are tried again.

    Returns:
        All trials, in the order of the search.

    Raises:
        RecipeError: The study, or a recipe that it makes, does not fit.
        RunError: The folder belongs to another study or recipe, nothing would be validated, or every trial failed.
        DataError: A prepared folder is missing or broken.
        SplitError: A trial's split selects nothing.
        ResourceError: The cluster cannot hold a trial, or Optuna is asked for and not installed.
        StorageError: The folder cannot be written, or another process works in it.
    """
    if not math.isfinite(price_per_hour) or price_per_hour < 0:
        raise RecipeError(f"--price-per-hour {price_per_hour:g}: expected a number of at least 0")
    asked, recipe, out = load_study(study, changes), complete_paths(recipe), storage.absolute(out)
    base = common_recipe(asked, recipe)
    storage.check_listable(out)
    storage.check_writable(out)
    with held(out, "sweep"):
        earlier = _earlier(asked, recipe, out)
        if retry_failed:
            for trial in earlier.values():
                trial.state = "waiting" if trial.state == "failed" else trial.state
        queue = TrialQueue(asked, recipe, earlier)
        _check(queue, out)
        content = {"study": asked.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json")}
        storage.write_bytes(storage.join(out, FILE), yaml.safe_dump(content, sort_keys=False).encode())
        trials = _run(asked, base, queue, out)
        write_results(out, asked, trials, price_per_hour)
    _conclude(asked, trials, out, price_per_hour)
    return trials


def _earlier(study: Study, recipe: Recipe, out: str) -> dict[str, Trial]:
    """Trials of earlier starts of the sweep, by name.

    Raises:
        RunError: The folder is of another sweep.
    """
    file = storage.join(out, FILE)
    if storage.exists(file):
        stored = read_yaml(storage.read_bytes(file), file, RunError)
        require(stored, _SHAPE, file, RunError)
        now = study.model_dump(mode="json")
        keys = [f"study.{key}" for key in now if key not in _MAY_CHANGE and stored["study"].get(key) != now[key]]
        keys += differing_keys(validate_recipe(stored["recipe"], file), recipe)
        if keys:
            raise RunError(
                f"{out} belongs to another sweep; they differ in {', '.join(keys[:4])}: give another --out, or the "
                "study and recipe this sweep was begun with"
            )
    return read_trials(out)


def _check(queue: TrialQueue, out: str) -> None:
    """Plans every trial that is left: its data are there, its split selects frames, and some are validated on."""
    for trial in queue.check():
        plan = make_plan(trial.recipe, RunFolder(storage.join(out, FOLDER, trial.name)))
        if not plan.frames.validation:
            raise RunError(
                f"{plan.prepared} has no labelled frame of split val, so nothing tells one trial from another: name "
                "some with --set data.val_frames=[…]"
            )


def _run(study: Study, base: Recipe, queue: TrialQueue, out: str) -> list[Trial]:
    workers = base.workers
    num_cpus = math.ceil(workers.most * workers.cpus_per_worker) + (workers.most > 1)
    board = Board(study.metric, study.num_trials, study.mode)
    with cluster.connect(num_cpus, shows_output=False):
        from ray_lidarseg.sweep.tuning import NESTED_CPUS, tune_trials

        gpus = cluster.num_gpus()
        use_gpu = workers.use_gpu == "yes" or (workers.use_gpu == "auto" and gpus >= workers.most)
        base = base.model_copy(update={"workers": workers.model_copy(update={"use_gpu": "yes" if use_gpu else "no"})})
        at_once = _at_once(base, NESTED_CPUS if workers.most > 1 else 0.0)
        left = study.num_trials - sum(trial.is_over for trial in queue.trials.values())
        print(f"{study.question}\n{study.num_trials} trials, {left} to train, {at_once} at a time", flush=True)
        with board.shown():
            for trial in queue.trials.values():
                board.saw(trial)
            if left:
                tune_trials(study, queue, out, base, at_once, board.saw)
    return list(queue.trials.values())


def _at_once(base: Recipe, beside: float) -> int:
    """Trials the cluster holds at the same time; more would wait for each other without an end.

    Raises:
        ResourceError: It does not hold one.
    """
    workers, gpus = base.workers, float(base.workers.use_gpu == "yes")
    cluster.require(workers.most, workers.cpus_per_worker, gpus)
    fit = cluster.num_fitting(workers.cpus_per_worker, gpus) // workers.most
    while fit and cluster.num_fitting(workers.cpus_per_worker, gpus, fit * beside) < fit * workers.most:
        fit -= 1
    if not fit:
        raise ResourceError(
            f"a trial needs {beside:g} CPU beside its {workers.most} workers of {workers.cpus_per_worker:g}, "
            "and the cluster has none left: set workers.num_workers=1, or workers.cpus_per_worker to less, or add nodes"
        )
    return fit


def _conclude(study: Study, trials: list[Trial], out: str, price_per_hour: float) -> None:
    """The last lines.

    Raises:
        RunError: Every trial failed.
        StorageError: Trials are left that could not be written.
    """
    if left := [trial for trial in trials if not trial.is_over and trial.reason]:
        raise StorageError(f"{len(left)} of {len(trials)} trials are not over: {left[0].reason}")
    failed = [trial for trial in trials if trial.state == "failed"]
    for trial in failed:
        print(f"failed: {trial.name} ({described(trial.params)}): {trial.reason}")
    best = best_trial(study, trials)
    if best is None:
        raise RunError(f"no trial of {out} has a {study.metric}; {CSV} there says why")
    spent_s, gpus = sum(trial.seconds for trial in trials), sum(gpu_hours(trial) for trial in trials)
    share_hours = sum(trial.seconds * trial.num_workers for trial in trials) / 3600
    cost = f", cost {share_hours * price_per_hour:.2f}" if price_per_hour else ""
    print(f"best: {described(best.params)}: {100 * (best.value(study.metric) or 0.0):.1f} % {study.metric}")
    print(f"{len(trials)} trials in {duration(spent_s)} of training, {gpus:.2f} GPU-hours{cost}")
    print(f"table: {storage.join(out, CSV)}\nrecipe: {storage.join(out, BEST)} (ray-lidarseg train takes it)")
    print(f"report: ray-lidarseg report {out}")
