"""All trials of a sweep in one table: live in a terminal, now and then in a log file."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ray_lidarseg.sweep.trials import Trial, described
from ray_lidarseg.training.tracking import duration

_LOG_PERIOD_S = 60.0  # ours: a table a minute fills pages of a job's log, not gigabytes
_SHOWN = 24  # rows of the live table: what a terminal shows; the last table has all


class Board:
    """The table.

    Args:
        metric: The column that decides.
        num_trials: How many trials there are at most.
        mode: ``max`` or ``min``.
    """

    def __init__(self, metric: str, num_trials: int, mode: str = "max"):
        self._metric, self._num_trials, self._sign = metric, num_trials, 1 if mode == "max" else -1
        width = None if sys.stdout.isatty() else 140
        self._console = Console(width=width, soft_wrap=True, markup=False, emoji=False)  # values may hold [brackets]
        self._live: Live | None = None
        self._trials: dict[str, Trial] = {}
        self._shown_s = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the table for the length of the block, and the whole of it at its end."""
        if self._console.is_terminal:
            with Live(self._table(_SHOWN), console=self._console, auto_refresh=False, transient=True) as self._live:
                yield
        else:
            yield
        self._console.print(self._table())

    def saw(self, trial: Trial) -> None:
        """A trial changed."""
        self._trials[trial.name] = trial
        if self._live is not None:
            self._live.update(self._table(_SHOWN), refresh=True)
        elif time.monotonic() - self._shown_s > _LOG_PERIOD_S:
            self._console.print(self._table())
            self._shown_s = time.monotonic()

    def _table(self, limit: int = 0) -> Table:
        states = Counter(trial.state for trial in self._trials.values())
        said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        left = self._num_trials - len(self._trials)
        table = Table(title=f"{said or 'no trial yet'}{f', {left} to come' if left > 0 else ''}", title_justify="left")
        for name in ("trial", "combination", "seed", "state", "step", self._metric, "time"):
            table.add_column(name, overflow="fold" if name == "combination" else "ellipsis")
        for trial in self._rows(limit):
            table.add_row(*_cells(trial, self._metric))
        return table

    def _rows(self, limit: int) -> Iterable[Trial]:
        """The best first; where not all fit, those that run are shown in any case."""
        ranked = sorted(self._trials.values(), key=self._rank)
        if not limit or len(ranked) <= limit:
            return ranked
        running = [trial for trial in ranked if trial.state == "running"][:limit]
        best = [trial for trial in ranked if trial.state != "running"]
        return [*running, *best[: limit - len(running)]]

    def _rank(self, trial: Trial) -> tuple[bool, float]:
        value = trial.value(self._metric)
        return value is None, -self._sign * (value or 0.0)


def _cells(trial: Trial, metric: str) -> list[str]:
    value = trial.value(metric)
    return [
        trial.name,
        described(trial.params),
        str(trial.seed),
        trial.state,
        f"{trial.step}/{trial.recipe.train.steps}",
        "" if value is None else f"{100 * value:.1f} %",
        duration(trial.seconds),
    ]
