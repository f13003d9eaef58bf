import io
import sys

import pytest

from ray_lidarseg.runtime.progress import progress


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


def written(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> list[str]:
    stream = Stream(is_terminal)
    clock = iter(range(10**6))
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(30, "prepare", "frame") as bar:
        monkeypatch.setattr(bar, "_time", lambda: bar.start_t + next(clock))
        for _ in range(30):  # one frame a second
            bar.update()
    return [line for line in stream.getvalue().replace("\n", "\r").split("\r") if line.strip()]


def test_a_log_file_gets_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written(monkeypatch, is_terminal=False)
    assert 3 <= len(lines) <= 6
    assert "prepare:   0%" in lines[0]
    assert "prepare: 100%" in lines[-1]
    assert "30/30" in lines[-1]


def test_a_terminal_follows_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(written(monkeypatch, is_terminal=True)) > 20


def test_short_work_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Stream(True))
    with progress(None, "index", "frame", delay_s=60.0) as bar:
        bar.update()
    assert not stream.getvalue().strip()
