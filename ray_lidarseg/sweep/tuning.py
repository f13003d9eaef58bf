"""Trials on Ray Tune, which places them, stops weak ones and starts those again whose process died.

Tune's own memory of a sweep lives in a scratch folder and dies with the process: it is pickles, which nobody should
load from a bucket, it is up to ten seconds old, and its clock (``training_iteration``) begins anew with each start.
What is kept are the trials' run folders and records; a sweep that goes on gives them to a new scheduler first, under a
clock of its own, the step. So the same command continues, and nothing is trained twice.

A trial with one training worker runs in the process Tune gives it, and the next trial in the same one: imports are
paid once a process. One with more starts Ray Train inside, as `train` does; where Tune stops such a trial, an actor
gives back what its workers held (``runtime.resource_releaser``), for which Ray's own needs a dashboard.
"""

import contextlib
import io
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ray_lidarseg import storage
from ray_lidarseg.errors import LidarSegError, RunError, StorageError
from ray_lidarseg.recipe.load import parse_recipe
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.runtime.deaths import deaths_untold
from ray_lidarseg.sweep.study import METRICS, Study
from ray_lidarseg.sweep.trial_queue import TrialQueue
from ray_lidarseg.sweep.trials import FOLDER, Trial, metrics_of
from ray_lidarseg.train import train
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.trainer import Evaluated, train_alone

_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no logs beside the run folders'
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's swallows the first Ctrl-C
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a checkpoint is reported without a metric
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1e9",  # checked before
    "TUNE_FORCE_TRIAL_CLEANUP_S": "20",  # a stopped trial whose process does not end is ended
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is none where none is asked for
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
NESTED_CPUS = 0.01  # of the process in which Ray Train is started; Tune takes no trial that asks for nothing

Watcher = Callable[[Trial], None]
"""Told of every change of a trial."""


def tune_trials(study: Study, queue: TrialQueue, out: str, base: Recipe, at_once: int, watch: Watcher) -> None:
    """Trains every trial of a queue to its end, on the connected cluster.

    Args:
        study: The scheduler and the metric.
        queue: Trials, those of an earlier start among them.
        out: The sweep's folder.
        base: Workers and devices of every trial.
        at_once: Trials that run at the same time.
        watch: Told of every change of a trial.

    Raises:
        RunError: Tune itself broke down.
        LidarSegError: A combination that the search proposed makes no valid recipe.
    """
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
    tries: Counter[str] = Counter()
    while True:
        _tune_waiting(study, queue, out, base, at_once, watch, tries)
        if not queue.is_waiting:
            return
        queue.earlier = dict(queue.trials)  # what a new scheduler is told


def _tune_waiting(
    study: Study, queue: TrialQueue, out: str, base: Recipe, at_once: int, watch: Watcher, tries: Counter[str]
) -> None:
    scheduler, is_nested = _scheduler(study, base, queue), base.workers.most > 1
    searcher = _Searcher(queue, base, out, watch)
    with tempfile.TemporaryDirectory(prefix="rls-tune") as scratch, _one_message(), deaths_untold("ray.tune"):
        tune.run(  # a Tuner would pickle what it calls back
            _run_nested if is_nested else _run_here,
            name="sweep",
            storage_path=scratch,
            resources_per_trial=tune.PlacementGroupFactory([_resources(base)]),
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=not is_nested,
            max_failures=base.workers.max_failures,
            raise_on_failed_trial=False,
            trial_dirname_creator=lambda trial: trial.trial_id,
            verbose=0,
            callbacks=[_Records(searcher, out, watch, tries)],
        )
    if searcher.error is not None:
        raise searcher.error


def _resources(base: Recipe) -> dict[str, float]:
    if base.workers.most > 1:
        return {"CPU": NESTED_CPUS}
    gpus = {"GPU": 1.0} if base.workers.use_gpu == "yes" else {}
    return {"CPU": base.workers.cpus_per_worker, **gpus}


def _run_here(config: dict[str, Any]) -> None:
    """What Tune runs: a trial with one worker."""
    recipe = parse_recipe(config["recipe"])
    torch.set_num_threads(max(1, int(recipe.workers.cpus_per_worker)))
    device = torch.device("cuda" if recipe.workers.use_gpu == "yes" else "cpu")
    with _reporting(recipe, config["run"]) as report:
        train_alone(recipe, config["run"], device, evaluated=report)


def _run_nested(config: dict[str, Any]) -> None:
    """What Tune runs: a trial with workers of its own."""
    recipe = parse_recipe(config["recipe"])
    with _reporting(recipe, config["run"]):
        train(recipe, config["run"], observer=_Observer(recipe))


class _Observer(TuneReportCallback):
    """In the controller of Ray Train: hands evaluations to the process that Tune gave the trial, which reports them."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self._recipe, self._began_s = recipe, time.time()

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Takes what every rank reported, of which checkpoints are the run folder's own matter."""
        if "evaluation" in metrics[0] and metrics[0]["step"] < self._recipe.train.steps:
            said = _said(metrics[0]["step"], metrics[0]["evaluation"], self._recipe, self._began_s)
            self._training_actor_item_queue.put(said)


def _said(step: int, lines: list[dict[str, Any]], recipe: Recipe, began_s: float) -> dict[str, Any]:
    """What Tune is told of an evaluation."""
    return {"step": step, "seconds": time.time() - began_s, **metrics_of(lines, recipe.method.deployed)}


@contextmanager
def _reporting(recipe: Recipe, run: str) -> Iterator[Evaluated]:
    """Reports evaluations to Tune, the last one only when the run folder is closed: Tune may end the trial at it.

    An error of this package ends the trial, with its message; Tune would start it again and fail again.
    """
    began_s = time.time()

    def report(step: int, lines: list[dict[str, Any]]) -> None:
        if step < recipe.train.steps:
            tune.report(_said(step, lines, recipe, began_s))

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the lines of its steps: the run folder has them
            yield report
    except LidarSegError as error:
        of_place = isinstance(error, StorageError)
        tune.report({"reason": str(error), "is_of_place": of_place, "seconds": time.time() - began_s})
        return
    steps = recipe.train.steps
    lines = [line for line in RunFolder(run).metrics() if line["step"] == steps]
    tune.report({**_said(steps, lines, recipe, began_s), "is_finished": True})


def _scheduler(study: Study, base: Recipe, queue: TrialQueue) -> TrialScheduler:
    if study.scheduler.name == "none":
        return FIFOScheduler()
    steps = base.train.steps
    asha = _Asha(
        queue,
        time_attr="step",
        metric=study.metric,
        mode=study.mode,
        max_t=steps,
        grace_period=max(1, round(study.scheduler.grace_ratio * steps)),
        reduction_factor=study.scheduler.reduction,
        stop_last_trials=False,
    )
    for trial in queue.earlier.values():
        if trial.is_over:
            asha.on_trial_add(None, SimpleNamespace(trial_id=trial.name, config={"name": trial.name}))
    return asha


class _Asha(ASHAScheduler):
    """ASHA that knows what a trial reached before the sweep was started again."""

    def __init__(self, queue: TrialQueue, **settings: Any):
        super().__init__(**settings)
        self._queue = queue

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Takes the trial's evaluations so far; what was decided on them stays decided."""
        super().on_trial_add(tune_controller, trial)
        earlier = self._queue.earlier.get(trial.config["name"])
        for line in earlier.evaluations if earlier else ():
            self.on_trial_result(tune_controller, trial, line)


class _Searcher(Searcher):
    """Gives Tune the trials of a queue."""

    def __init__(self, queue: TrialQueue, base: Recipe, out: str, watch: Watcher):
        super().__init__(metric=None, mode=None)
        self._queue, self._base, self._out, self._watch = queue, base, out, watch
        self.error: LidarSegError | None = None

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        """Nothing to set: the queue knows the study."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial."""
        try:
            trial = self._queue.next()
        except LidarSegError as error:  # of a search that proposes as it goes: what runs still ends
            self.error, trial = error, None
        if trial is None:
            return Searcher.FINISHED
        workers = self._base.workers
        trial.state, trial.reason, trial.num_workers = "running", "", workers.most
        trial.num_gpus = workers.most if workers.use_gpu == "yes" else 0
        trial.write(self._out)
        self._watch(trial)
        run = storage.join(self._out, FOLDER, trial.name)
        recipe = trial.recipe.model_copy(update={"workers": workers})
        return {"name": trial.name, "recipe": recipe.to_yaml(), "run": run}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The records say it already."""

    def trial(self, name: str) -> Trial:
        """A trial that was given."""
        return self._queue.trials[name]

    def done(self) -> None:
        """A trial is over."""
        self._queue.done()

    def may_begin_again(self, trial: Trial, tries: int) -> bool:
        """Gives a trial back that was never begun; whether it may be tried so often."""
        if 0 <= self._base.workers.max_failures < tries:
            return False
        self._queue.give_back(trial)
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing that the records lack."""

    def restore(self, checkpoint_path: str) -> None:
        """Never asked: a sweep goes on from its records."""


class _Records(tune.Callback):
    """Keeps what Tune says of each trial in its record, at once."""

    def __init__(self, searcher: _Searcher, out: str, watch: Watcher, tries: Counter[str]):
        self._searcher, self._out, self._watch, self._tries = searcher, out, watch, tries
        self._before_s: dict[str, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial's process begins, maybe not its first one."""
        own = self._searcher.trial(trial.config["name"])
        self._before_s[own.name] = own.seconds

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Takes an evaluation, the end of the training, or why there is none."""
        own = self._searcher.trial(trial.config["name"])
        if "seconds" in result:
            own.seconds = self._before_s[own.name] + result["seconds"]
        if "reason" in result:  # a full disk says nothing against a trial: it is left as begun
            own.state, own.reason = own.state if result.get("is_of_place") else "failed", result["reason"]
        elif metrics := {name: result[name] for name in METRICS if name in result}:
            own.saw(int(result["step"]), metrics)
        if result.get("is_finished"):
            own.state, own.reason = "finished", ""
        self._keep(own)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial's process died, and the trial is given another one."""
        own = self._searcher.trial(trial.config["name"])
        print(f"the process of trial {own.name} died: it goes on from its last checkpoint", flush=True)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial ended; one that did not say how was stopped by the scheduler."""
        own = self._searcher.trial(trial.config["name"])
        if not own.is_over and not own.reason:
            own.state = "stopped"
        self._keep(own)
        self._searcher.done()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial's process died more often than is allowed, or raised what is no error of this package.

        Or it died while the trial was handed to it from the one before: that Tune 2.60 does not try again by itself.
        """
        own = self._searcher.trial(trial.config["name"])
        if own.name not in self._before_s:
            self._tries[own.name] += 1
            if self._searcher.may_begin_again(own, self._tries[own.name]):
                self._keep(own)
                return
        lines = str(trial.get_error() or "its process died").strip().splitlines()
        own.state, own.reason = "failed", lines[-1]
        self._keep(own)
        self._searcher.done()

    def _keep(self, own: Trial) -> None:
        own.write(self._out)
        self._watch(own)


@contextmanager
def _one_message() -> Iterator[None]:
    try:
        yield
    except (tune.TuneError, ray.exceptions.RayError) as error:
        raise RunError(
            f"Ray Tune broke down ({error}); what the trials reached is kept: the same command goes on"
        ) from error
