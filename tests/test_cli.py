import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ray_lidarseg.cli import build_parser, main

ROOT = Path(__file__).parents[1]


def test_help_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys\nfrom ray_lidarseg.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'numpy', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, env={}).returncode == 0


def test_help_answers_at_once() -> None:
    """It takes 0.04 s of processor time; a loaded machine may need several times that."""
    code = "import sys; sys.argv[1:] = ['--help']; from ray_lidarseg.cli import main; main()"
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env={"PYTHONPATH": str(ROOT)})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.2


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "world",
        "index",
        "validate",
        "prepare",
        "train",
        "sweep",
        "evaluate",
        "probe",
        "prototypes",
        "export",
        "predict",
        "archive",
        "view",
        "report",
        "recipe",
        "submit",
        "doctor",
    ],
)
def test_every_verb_has_a_help_page(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([verb, "--help"])
    assert stop.value.code == 0
    assert verb in capsys.readouterr().out


def test_bad_input_is_one_message_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "demo", "--set", "method.confidance=0.9"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'method.confidence'" in error
    assert "Traceback" not in error


def test_recipe_prints_the_resolved_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "demo", "--set", "seed=7"]) == 0
    assert "seed: 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("validate index.parquet --seed -1", "'-1' is no seed: expected a whole number of at least 0"),
        ("world --out w --seed -1", "'-1' is no seed"),
        ("demo --seed 0.5", "'0.5' is no seed"),
        ("predict r --out o --scans s --split ../../../x", "invalid choice: '../../../x'"),
        ("evaluate r --split va", "invalid choice: 'va'"),
    ],
)
def test_values_that_mean_nothing_are_refused_at_once(line: str, said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_terminal_that_knows_no_arrow_gets_a_question_mark() -> None:
    code = (
        "import sys\nfrom ray_lidarseg import cli\n"
        "cli.build_parser = lambda: type('P', (), {'parse_args': lambda *_: type('A', (), {'verb': 'index', "
        "'run': lambda _: print('24 → 10 é')})})()\nsys.exit(cli.main([]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"}
    )
    assert (said.stdout, said.stderr, said.returncode) == ("24 ? 10 é\n".encode("latin-1"), b"", 0)


def test_nobody_reading_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    said = subprocess.run(
        [sys.executable, "-m", "ray_lidarseg.cli", "recipe", "demo"], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (said.stderr, said.returncode) == (b"", 141)
