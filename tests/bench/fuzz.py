"""Damaged files through every reader: exceptions that are not ours, silent misreading, stalls, memory.

`python -m tests.bench.fuzz [--cases 11000] [--seed 11] [--readers …] [--json FILE] [--quick]`

Each reader gets the same number of seeded cases (``tests/fuzz``): cut, flipped, overwritten, repeated, and with odd
values in JSON, one to three times. A reader's cases run in a process of their own, so that a crash is counted and not
the end. Fails (rc 1) where anything but a value or a refusal in our words comes back, a value is not the whole file's
although the format tells, a case takes more than 5 s, or more than 500 MiB.
"""

import multiprocessing
import os
import sys
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any

from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.fuzz.readers import READERS, Reader
from tests.fuzz.running import FAILURES, OUTCOMES, Outcome, run_case

QUICK_CASES = 40  # of each reader


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--cases", type=int, default=11_000, help="of all readers together")
    made.add_argument("--seed", type=int, default=11)
    made.add_argument("--readers", nargs="*", default=[reader.name for reader in READERS])
    args = made.parse_args()
    chosen = [reader for reader in READERS if reader.name in args.readers]
    number = QUICK_CASES if args.quick else -(-args.cases // len(chosen))
    ledger, rows = Ledger(args.json), []
    for reader in chosen:
        key = {"reader": reader.name, "seed": args.seed, "cases": number}
        rows.append(ledger.measure(key, lambda reader=reader: measure(reader, args.seed, number)))
        for example in rows[-1]["examples"]:
            print(example, file=sys.stderr)
    header = ("reader", "cases", *OUTCOMES, "crashed", "slowest s", "most MiB")
    keys = ("reader", "cases", *OUTCOMES, "crashed", "slowest_s", "most_mib")
    print_table(header, [[row[key] for key in keys] for row in rows])
    total = Counter({name: sum(row[name] for row in rows) for name in ("cases", *FAILURES, "crashed")})
    failed = sum(total[name] for name in (*FAILURES, "crashed"))
    told = ", ".join(f"{total[name]} {name}" for name in (*FAILURES, "crashed"))
    print(f"{total['cases']} damaged files through {len(rows)} readers: {told}: {'FAILED' if failed else 'ok'}")
    return int(bool(failed))


def measure(reader: Reader, seed: int, number: int) -> Row:
    """Outcomes of a reader's cases by kind; a process that a case kills is started again behind it."""
    outcomes: list[Outcome] = []
    crashed = 0
    while len(outcomes) + crashed < number:
        crashed += _survived(reader, seed, range(len(outcomes) + crashed, number), outcomes)
    counts = Counter(outcome.kind for outcome in outcomes)
    return {
        **{kind: counts[kind] for kind in OUTCOMES},
        "crashed": crashed,
        "slowest_s": round(max((outcome.seconds for outcome in outcomes), default=0.0), 2),
        "most_mib": round(max((outcome.mib for outcome in outcomes), default=0.0)),
        "examples": [outcome.detail for outcome in outcomes if outcome.detail][:3],
    }


def _survived(reader: Reader, seed: int, numbers: range, outcomes: list[Outcome]) -> int:
    """Adds outcomes until the process ends; 1 where a case killed it."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_work, args=(theirs, reader, seed, numbers))
    child.start()
    theirs.close()
    first = len(outcomes)
    try:
        while True:
            outcomes.append(ours.recv())
    except EOFError:
        child.join()
    return int(len(outcomes) - first < len(numbers))


def _work(pipe: Connection, reader: Reader, seed: int, numbers: range) -> Any:
    for number in numbers:
        pipe.send(run_case(reader, seed, number))
    pipe.close()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
