"""One worker of a training run, alone or among others: data, method, loop, validation, checkpoints and metrics.

Whoever starts it decides where it runs: the verb ``train`` starts one in each process of Ray Train, ``train_alone``
starts the only one in this process.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import CATALOG_NAME, Catalog, read_catalog
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.errors import RecipeError, RunError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.dense_parts import compile_dense
from ray_lidarseg.models.norm_statistics import Statistics, lent_statistics, measured_statistics
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.sparse.build import compiles_kernels
from ray_lidarseg.sparse.mkl_switch import let_mkl_use_all_instructions
from ray_lidarseg.storage.lock import held
from ray_lidarseg.training import checkpoints, completion
from ray_lidarseg.training.diagnosis import Diagnosis, diagnosed_frames
from ray_lidarseg.training.health import Health
from ray_lidarseg.training.host_geometry import RepresentedSteps
from ray_lidarseg.training.loading import loaded
from ray_lidarseg.training.loop import Hooks, MicroBatches, Ranks, StepLoop, run, synchronise_batch_norm
from ray_lidarseg.training.mlflow_run import MLflowRun, require
from ray_lidarseg.training.precision import slowness
from ray_lidarseg.training.run_folder import RunFolder, differing_keys, parse_lines
from ray_lidarseg.training.run_frames import RunFrames, content_of, frames_of_run, refuse_changed, stored_frames
from ray_lidarseg.training.starting import begin_with, read_source
from ray_lidarseg.training.tracking import Tracker, lines_until
from ray_lidarseg.training.validation import Validation
from ray_lidarseg.training.warm_kernels import warm_kernels

Keep = Callable[[int, bytes | None], None]
"""Stores a checkpoint, now or soon: the number of steps done, and the file's content on rank 0 (None on all others)."""

Evaluated = Callable[[int, list[dict[str, Any]]], None]
"""Told on every rank after an evaluation: the number of steps done, and its metrics lines, alike on all of them."""


@dataclass(frozen=True)
class Plan:
    """What was decided before the first step, the same for every worker.

    Attributes:
        recipe: The run.
        run: Absolute URI of the run folder.
        prepared: Absolute URI of the shards.
        frames: What it learns from and is validated on.
        start: What ``recipe.start`` was when the run began: origin, step and digest; empty where there is none.
    """

    recipe: Recipe
    run: str
    prepared: str
    frames: RunFrames
    start: dict[str, Any] = field(default_factory=dict)


def make_plan(recipe: Recipe, folder: RunFolder) -> Plan:
    """Reads the catalog, and the split the run in the folder began with; one that begins draws it.

    Raises:
        RecipeError: ``data.prepared`` is not set.
        RunError: Frames the run began with are gone or have changed, or ``recipe.start`` names no weights.
        SplitError: The split selects nothing.
        DataError: The prepared shards are missing or broken.
        ResourceError: The recipe's tracker cannot be used.
    """
    if not recipe.data.prepared:
        raise RecipeError("data.prepared is not set: give the folder that `ray-lidarseg prepare` wrote")
    require(recipe.tracking)
    prepared = storage.absolute(recipe.data.prepared)
    catalog = catalog_of(recipe)
    frames = frames_of_run(folder.uri, catalog, recipe)
    if not frames.validation:
        print("no labelled frame of split val: nothing is evaluated (data.val_frames may name some)", flush=True)
    return Plan(recipe, folder.uri, prepared, frames, _start_of(recipe, folder))


def _start_of(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """As noted when the run began; of one that begins, as it is now, tried on a model before anything is written."""
    if recipe.start is None:
        return {}
    noted = folder.manifest().get("start") if storage.exists(folder.path("manifest.json")) else None
    if noted:
        return noted
    source, taxonomy = read_source(recipe.start), dataset_of(recipe.data).taxonomy
    model = build_segmentor(recipe, resolve_sensor(recipe.data), taxonomy.num_classes)
    begin_with(model, source, recipe.start, taxonomy.class_names)
    return source.note()


class Trainer:
    """Trains from wherever the run folder is to the end of the schedule.

    Args:
        plan: The run.
        ranks: This process among the others; a process group must exist where there are others.
        device: Where it computes.
        keep: Stores a checkpoint, called on every rank; left out, it is written to the run folder.
        is_leaving: Whether this process knows that its machine is about to be taken away.
        evaluated: Told after every evaluation.
        observe: Sees each line of metrics, on rank 0.

    Attributes:
        loop: The method with its optimiser, at some step.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Ranks,
        device: torch.device,
        keep: Keep | None = None,
        is_leaving: Callable[[], bool] = lambda: False,
        evaluated: Evaluated = lambda step, lines: None,
        observe: Callable[[dict[str, Any]], None] = lambda line: None,
    ):
        recipe = plan.recipe
        if recipe.workers.mkl_as_on_intel:
            let_mkl_use_all_instructions()  # before the first product
        self.plan, self.ranks = plan, ranks
        self._folder = RunFolder(plan.run)
        self._keep, self._is_leaving = keep or self._write, is_leaving
        self._evaluated, self._observe = evaluated, observe
        self._sensor = resolve_sensor(recipe.data)
        num_classes = dataset_of(recipe.data).taxonomy.num_classes
        filesystem, path = storage.resolve(plan.prepared)
        catalog = catalog_of(recipe)
        self._frames = PreparedFrames(filesystem, path, catalog)
        val_frames = PreparedFrames(filesystem, path, catalog.select(plan.frames.validation))
        torch.manual_seed(recipe.seed)
        method = build_method(recipe, self._sensor, num_classes).to(device)
        synchronise_batch_norm(method, device, ranks)
        if recipe.workers.compile_dense:
            compile_dense(method, device)
        self.loop = StepLoop(method, recipe, device, ranks)
        self._validation = Validation(val_frames, recipe, self._sensor, num_classes, device, ranks)
        known = diagnosed_frames(catalog, plan.frames.split, recipe.train.diagnose_frames)
        known_frames = PreparedFrames(filesystem, path, known)
        absent = dataset_of(recipe.data).absent
        self._diagnosis = Diagnosis(known_frames, recipe, self._sensor, num_classes, absent, device, ranks)
        self._steps = TrainSteps(
            self._frames,
            plan.frames.split,
            recipe,
            self._sensor,
            ranks.rank,
            ranks.world_size,
            with_labelled=recipe.method.reads_labels,
            with_unlabelled=method.uses_unlabelled,
            extras=method.extras,
            rays=method.rays,
            same_count=device.type == "cuda" and ranks.world_size > 1,  # see synchronise_batch_norm
        )
        if self._steps.evidence is not None:
            method.read_words(self._steps.evidence.text)
        self._measured: tuple[int, Statistics] = (-1, {})
        self._health = Health(recipe.method.deployed)
        self._tracker: Tracker | None = None

    def run(self) -> None:
        """Resumes from the newest checkpoint that every rank can read, then steps to the end."""
        text = self._resume()
        self._health = Health(self.plan.recipe.method.deployed, parse_lines(text.splitlines()))
        if not self.ranks.rank:
            if warning := slowness(self.loop.precision, self.loop.device):
                print(f"WARNING: {warning}", flush=True)
            recipe = self.plan.recipe
            mlflow = MLflowRun(self._folder, recipe) if recipe.tracking else None
            self._tracker = Tracker(self._folder, text, self.loop.step, recipe.train.steps, mlflow)
        self._warm()
        with closing(self._batches()) as batches:
            run(self.loop, batches, Hooks(self._record, self._evaluate, self._save, self._is_leaving))
        if self._tracker is not None:
            self._tracker.close()

    def _resume(self) -> str:
        state = checkpoints.load_latest(self.plan.run)
        agreed = self.ranks.least(state["step"] if state else 0, self.loop.device)
        if state and state["step"] > agreed:  # another rank could not read it (any more)
            state = checkpoints.load_latest(self.plan.run, at_most=agreed)
        if not state or not agreed:
            self._begin()
            return ""
        self.loop.load_state_dict(state)
        return lines_until(state["metrics"], agreed)

    def _begin(self) -> None:
        """Takes the weights that ``recipe.start`` names, a teacher as well as its student."""
        recipe = self.plan.recipe
        if recipe.start is None:
            return
        source = read_source(recipe.start, self.plan.start["step"])
        if source.sha256 != self.plan.start["sha256"]:
            raise RunError(f"{source.origin} has changed since this run was planned: give another --run")
        class_names = dataset_of(recipe.data).taxonomy.class_names
        student = self.loop.method.student
        for name, model in self.loop.method.segmentors().items():
            start = recipe.start
            if model is not student and any(parameter.requires_grad for parameter in model.parameters()):
                start = start.model_copy(update={"part": "backbone"})  # two equal students would never disagree
            left_out = begin_with(model, source, start, class_names)
            if not self.ranks.rank:
                fresh = f"fresh: {', '.join(left_out)}" if left_out else "the head, too"
                print(f"{name} begins with {source.origin} after {source.step} steps ({fresh})", flush=True)

    def _warm(self) -> None:
        """Lets one process of each node compile what its sparse backend compiles; see ``warm_kernels``."""
        recipe, student, step = self.plan.recipe, self.loop.method.student, self.loop.step
        if not student.is_spatial or not compiles_kernels(recipe.sparse.backend) or step == recipe.train.steps:
            return
        scans = max((batch for pair in self._steps[step] for batch in pair), key=len)
        warm_kernels(student, scans, self.loop.precision, self.ranks, self.loop.device)

    def _batches(self) -> Generator[MicroBatches, None, None]:
        """From where the loop is to the end."""
        steps = range(self.loop.step, self.plan.recipe.train.steps)
        processes = self.plan.recipe.workers.loader_processes
        in_loader = self.plan.recipe.workers.geometry_in_loader
        stream = RepresentedSteps(self._steps, self.plan.recipe, self._sensor) if in_loader else self._steps
        return loaded(stream, steps, processes, self.loop.device, storage.is_local(self.plan.prepared))

    def _record(self, line: dict[str, Any]) -> None:
        warning = self._health.take(line)
        if self._tracker is not None:
            self._tracker.record(line)
            self._observe(line)
            if warning:
                self._tracker.record({"kind": "warn", "step": line["step"], "warning": warning})

    def _evaluate(self, step: int) -> bool:
        method, best_before = self.loop.method, self._health.best_step
        statistics = self._deployed_statistics(step)
        with lent_statistics(method.deployed_model, statistics):
            lines = self._validation(method, step)
        for line in [*lines, *self._diagnosis(method, step, statistics)]:
            self._record(line)
        self._evaluated(step, lines)
        return self._health.best_step != best_before

    def _deployed_statistics(self, step: int) -> Statistics:
        """Of the model to deploy, measured over the scans of the last steps; none where the recipe asks for none.

        Training goes on with the statistics it had, so that what a run computes does not depend on when it evaluates.
        """
        number = self.plan.recipe.train.norm_batches
        if number and self._measured[0] != step:
            model, steps = self.loop.method.deployed_model, range(max(0, step - number), step)
            mine = measured_statistics(model, self._scans_of(steps))
            ranks = self.ranks.world_size
            agreed = {name: value if ranks == 1 else self.ranks.mean(value) for name, value in mine.items()}
            self._measured = step, agreed
        return self._measured[1]

    def _scans_of(self, steps: range) -> Iterator[PointBatch]:
        """For each micro-batch its unlabelled scans, or the labelled ones where it has none.

        A step in which any rank has a batch without points is left out by all: it would be passed over there, and batch
        norms that are synchronised wait in each forward for every rank.
        """
        for step in steps:
            scans = [unlabelled if len(unlabelled) else labelled for labelled, unlabelled in self._steps[step]]
            if self.ranks.least(int(all(map(len, scans))), self.loop.device):
                yield from (batch.to(self.loop.device) for batch in scans)

    def _save(self, step: int) -> None:
        with storage.explained("save a checkpoint in", self.plan.run):
            content, statistics = None, self._deployed_statistics(step)  # on every rank: they agree on it
            if self._tracker is not None:
                self._tracker.flush()
                state = {**self.loop.state_dict(), "metrics": self._tracker.text, "recipe": self.plan.recipe.to_yaml()}
                state["deployed_statistics"] = {name: value.cpu() for name, value in statistics.items()}
                content = checkpoints.pack(state)
            self._keep(step, content)
            if self._tracker is not None:
                keep = self.plan.recipe.train.keep_checkpoints
                checkpoints.prune(self.plan.run, keep, self._health.best_step, writing=step)

    def _write(self, step: int, content: bytes | None) -> None:
        if content is not None:
            checkpoints.write(self.plan.run, step, content)


def train_alone(
    recipe: Recipe, run: str, device: torch.device | str = "cpu", evaluated: Evaluated = lambda step, lines: None
) -> Trainer:
    """Trains a recipe in this process, or continues where the run folder is; a finished run is loaded.

    Args:
        recipe: What to train, with ``data.prepared`` set; ``workers`` is not looked at, except for the loader.
        run: Path or ``s3://`` URI of the run folder; created where absent.
        device: Where to compute.
        evaluated: Told after every evaluation.

    Returns:
        The trainer after its last step; ``plan.run`` is the folder.

    Raises:
        RunError: The folder belongs to another recipe, or training broke down.
        SplitError: The split selects nothing.
        DataError: The prepared shards are missing or broken.
    """
    folder, recipe = RunFolder(run), completion.complete(recipe)
    is_there = continues(folder, recipe)
    with held(folder.uri, "train"):
        plan = make_plan(recipe, folder)
        if not is_there or folder.recipe() != recipe:
            folder.open(recipe, plan.frames, plan.start)
        trainer = Trainer(plan, Ranks(), torch.device(device), evaluated=evaluated)
        trainer.run()
        folder.close()
    return trainer


def continues(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether the folder holds a run of this recipe, be it that its prepared folder has moved since.

    Raises:
        RunError: The run there is of another recipe, or finished on data that have changed since.
    """
    if not storage.exists(folder.path("recipe.yaml")):
        return False
    stored, frames = completion.complete_paths(folder.recipe()), stored_frames(folder.uri)
    if (
        differing_keys(stored, recipe) == ["data.prepared"]
        and frames
        and frames.is_all_of(content_of(catalog_of(recipe), recipe))
    ):
        print(f"the frames of {stored.data.prepared} lie in {recipe.data.prepared} now, going on", flush=True)
    else:
        folder.belongs_to(recipe, stored)
    has_shards = storage.exists(storage.join(recipe.data.prepared, CATALOG_NAME))
    if folder.is_finished() and frames and has_shards:
        refuse_changed(frames, content_of(catalog_of(recipe), recipe), folder.uri)
    return True


def catalog_of(recipe: Recipe) -> Catalog:
    """The prepared frames of a recipe, those of ``data.val_frames`` in split ``val``."""
    return read_catalog(*storage.resolve(recipe.data.prepared)).with_validation(recipe.data.val_frames)
