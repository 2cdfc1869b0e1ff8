"""Prints what a step costs beside the physical limit of the same moment: `python -m bench [--rounds N] [ROW…]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

from bench import engine, orm
from bench.measuring import Row

MEASUREMENTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "one_run": engine.one_run,
    "many_runs": engine.many_runs,
    "large_context": engine.large_context,
    "long_run": engine.long_run,
    "loading": engine.loading,
    "pause_and_resume": engine.pause_and_resume,
    "in_memory": engine.in_memory,
    "importing": engine.importing,
    "orm": orm.orm_backend,
}


def main() -> int:
    """Measure, and return 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []], metavar="ROW", help=", ".join(MEASUREMENTS))
    parser.add_argument("--rounds", type=int, default=9, help="the median of so many rounds counts (9)")
    options = parser.parse_args()
    missed = 0
    for name in options.names or MEASUREMENTS:
        for row in MEASUREMENTS[name](options.rounds):
            print(row, flush=True)
            missed += not row.met
    print("all targets met" if not missed else f"{missed} targets missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
