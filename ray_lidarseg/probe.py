"""The verb `probe`: what pre-trained networks are worth, by the field's protocols, as one table.

For each run: zero-shot (a distilled network with words), a linear probe (only the classifier learns, from all labels),
and fine-tuning on shares of the labels; beside them the same fine-tuning from random weights. All are trainings of
method ``supervised`` with a recipe's ``start:``, each a run folder of its own, so the same command resumes.

Source: SLidR's protocols (CVPR 2022); rates, lengths and splits are those of the recipe and are written down.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.errors import RecipeError, RunError
from ray_lidarseg.evaluate import evaluate
from ray_lidarseg.recipe.load import load_recipe, override, parse_recipe, with_method
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.runtime.cluster import connect
from ray_lidarseg.train import train
from ray_lidarseg.training.completion import complete
from ray_lidarseg.training.run_folder import RunFolder

RANDOM = "random"
_FILE = "probe.json"
_OWN_KEYS = {
    "split.ratio": "say --ratios",
    "split.seed": "say --seeds",
    "seed": "say --seeds",
    "name": "the table calls a run by its folder's name",
}
"""Keys that the table sets itself, and what to do instead of setting them."""


@dataclass(frozen=True)
class Probe:
    """One training of the table.

    Attributes:
        network: Name of the run it starts from, or ``random``.
        protocol: ``linear probe`` or ``fine-tuning``.
        ratio: Share of labels.
        seed: Of split, classifier and order.
        recipe: The training.
        start_sha256: Of the checkpoint it starts from; empty where it starts from none.
    """

    network: str
    protocol: str
    ratio: float
    seed: int
    recipe: Recipe
    start_sha256: str

    @property
    def folder(self) -> str:
        """Name of its run folder; the recipe says where the source lies, and the digest which weights lie there."""
        kind, of_source = self.protocol.replace(" ", "-"), f"-{self.start_sha256[:8]}" if self.start_sha256 else ""
        return f"{self.network}-{kind}-{100 * self.ratio:g}pct-{self.seed}-{self.recipe.fingerprint}{of_source}"


def probe(
    runs: Sequence[str],
    out: str,
    recipe: str = "",
    overrides: Sequence[str] = (),
    ratios: Sequence[float] = (0.01,),
    seeds: Sequence[int] = (0, 1, 2),
    linear: bool = True,
    words: str = "",
) -> list[dict[str, Any]]:
    """Trains and scores whatever the table lacks, prints it, and writes ``OUT/probe.json``.

    Args:
        runs: Run folders of pre-trained networks.
        out: Folder for the trainings and the table.
        recipe: Downstream recipe, file or name: another data set, other rates. Empty: that of each run.
        overrides: ``KEY=VALUE`` on top, such as ``train.steps=2000`` or ``start.head_lr_factor=10``.
        ratios: Shares of labels to fine-tune on.
        seeds: Of the trainings.
        linear: Whether to probe linearly, too.
        words: As of `evaluate`.

    Returns:
        Rows: network, protocol, ratio, seed, point mIoU, rate, split, step and digest of the weights it began with.

    Raises:
        RunError: A name is no run, two have the same name, or a network does not fit the recipe.
        RecipeError: The recipe or an override does not fit, or sets what the table itself sets.
    """
    _refuse_own_keys(overrides)
    names = _names(runs)
    bases = {name: _base(run, recipe, overrides) for name, run in names.items()}
    sources = {name: _source(run) for name, run in names.items()}
    planned = [
        item
        for name, run in names.items()
        for item in _planned(name, run, sources[name], bases[name], ratios, seeds, linear, overrides)
    ]
    planned += _planned(RANDOM, "", {}, next(iter(bases.values())), ratios, seeds, False, overrides)
    rows = []
    with connect():
        for name, run in names.items():
            rows += _zero_shot(name, run, sources[name], words)
        for item in planned:
            folder = train(item.recipe, storage.join(out, item.folder))
            rows.append(_row(item, folder))
            storage.write_bytes(storage.join(out, _FILE), json.dumps(rows, indent=1).encode())
    print(table(rows), flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Networks down, protocols across: point mIoU in percent, mean ± standard deviation over seeds."""
    columns = list(dict.fromkeys(_column(row) for row in rows))
    columns.sort(key=lambda name: (name != "zero-shot", name != "linear probe"))
    lines = [["network", *columns]]
    for network in dict.fromkeys(row["network"] for row in rows):
        cells = [[row for row in rows if row["network"] == network and _column(row) == name] for name in columns]
        lines.append([network, *(_mean_std([100 * row["miou_ratio"] for row in cell]) for cell in cells)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    trained = [row for row in rows if row["seed"] is not None]
    said = {f"lr {row['lr']:g} (classifier x {row['head_lr_factor']:g}), {row['steps']} steps" for row in trained}
    splits = {
        f"{row['split_protocol']} {_percent(row['ratio'])} seed {row['split_seed']} {row['split_digest']}"
        for row in trained
    }
    seeds = ", ".join(map(str, sorted({row["seed"] for row in trained})))
    return "\n".join(
        [*text, f"point mIoU, %, seeds {seeds}; {'; '.join(sorted(said))}", f"splits {', '.join(sorted(splits))}"]
    )


def _names(runs: Sequence[str]) -> dict[str, str]:
    named = {storage.name_of(storage.absolute(run)): storage.absolute(run) for run in runs}
    if len(named) < len(runs):
        raise RunError("two runs have the same folder name, which is what the table calls them: rename one")
    if RANDOM in named:
        raise RunError(f"a run called {RANDOM} would be taken for the baseline: rename its folder")
    for run in named.values():
        RunFolder(run).recipe()  # refuses what is no run
    return named


def _refuse_own_keys(overrides: Sequence[str]) -> None:
    for change in overrides:
        if (key := change.partition("=")[0].strip()) in _OWN_KEYS:
            raise RecipeError(f"probe sets {key} itself, so {change} has no effect: leave it out, {_OWN_KEYS[key]}")


def _base(run: str, recipe: str, overrides: Sequence[str]) -> Recipe:
    """The downstream recipe of a run, without its start."""
    base = with_method(load_recipe(recipe) if recipe else RunFolder(run).recipe(), "supervised")
    unread = {"train.unlabelled_per_step": 0, "data.evidence": "", "data.evidence_dim": 0, "start": None}
    base = _changed(override(base, unread), [change for change in overrides if not _is_of_start(change)])
    if base.split.protocol == "list":
        raise RecipeError(
            "split.protocol=list names its frames, so that every row would train on the same ones: give a recipe or "
            "`--set` with another split.protocol, such as uniform"
        )
    return base


def _changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    return parse_recipe(recipe.to_yaml(), overrides, "the downstream recipe")


def _is_of_start(change: str) -> bool:
    return change.startswith("start.")


def _planned(
    name: str,
    run: str,
    source: dict[str, Any],
    base: Recipe,
    ratios: Sequence[float],
    seeds: Sequence[int],
    linear: bool,
    overrides: Sequence[str],
) -> Iterator[Probe]:
    wanted = [("linear probe", 1.0)] if linear else []
    for protocol, ratio in [*wanted, *(("fine-tuning", ratio) for ratio in ratios)]:
        for seed in seeds:
            changes: dict[str, Any] = {"split.ratio": ratio, "split.seed": seed, "seed": seed, "name": name}
            if run:
                is_frozen = protocol == "linear probe"
                changes["start"] = {"run": run, "part": "backbone", "frozen": is_frozen}
                changes |= {"train.norm_batches": 0} if is_frozen else {}
            recipe = override(base, changes)
            recipe = _changed(recipe, [change for change in overrides if run and _is_of_start(change)])
            yield Probe(name, protocol, ratio, seed, complete(recipe), source.get("sha256", ""))


def _source(run: str) -> dict[str, Any]:
    """Step and digest of the newest checkpoint, which all that starts from the run begins with."""
    state = RunFolder(run).checkpoint()
    return {"step": state["step"], "sha256": state["sha256"]}


def _zero_shot(name: str, run: str, source: dict[str, Any], words: str) -> list[dict[str, Any]]:
    try:
        found = evaluate(run, words=words)
    except RunError as error:
        print(f"{name}: no zero-shot ({error})", flush=True)
        return []
    if "zero_shot" not in found:
        return []
    miou = found["zero_shot"]["points"]["miou_ratio"]
    row = {"network": name, "protocol": "zero-shot", "ratio": 0.0, "seed": None, "miou_ratio": miou or 0.0}
    return [{**row, **_of_start(source)}]


def _row(item: Probe, folder: RunFolder) -> dict[str, Any]:
    lines = [line for line in folder.metrics() if line["kind"] == "evaluate"]
    if not lines:
        raise RunError(f"{folder.uri} was never evaluated: its shards hold no labelled frame of split val")
    manifest, start = folder.manifest(), item.recipe.start
    split = manifest["split"]
    return {
        "network": item.network,
        "protocol": item.protocol,
        "ratio": item.ratio,
        "seed": item.seed,
        "miou_ratio": lines[-1]["point_miou_ratio"],
        "cell_miou_ratio": lines[-1]["cell_miou_ratio"],
        "lr": item.recipe.optim.lr,
        "head_lr_factor": start.head_lr_factor if start else 1.0,
        "steps": item.recipe.train.steps,
        "data": item.recipe.data.dataset,
        "split_protocol": split["protocol"],
        "split_seed": split["seed"],
        "split_digest": split["digest"],
        **_of_start(manifest.get("start", {})),
        "run": folder.uri,
    }


def _of_start(source: dict[str, Any]) -> dict[str, Any]:
    return {"start_step": source.get("step"), "start_sha256": source.get("sha256", "")}


def _column(row: dict[str, Any]) -> str:
    return f"{_percent(row['ratio'])} labels" if row["protocol"] == "fine-tuning" else row["protocol"]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:g}%"


def _mean_std(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
