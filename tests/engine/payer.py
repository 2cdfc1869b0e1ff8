"""A program that kills a worker in the middle of transactional steps, again and again, and counts what is left.

It prints for each kill how many pairs of rows and how many checkpoints there are, and at last the run's status and the
same numbers. First the workers kill themselves at each moment of a step, twice; then they are killed at random moments.
Each worker is a fork: Django is loaded once.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import time

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "flujo_site.settings"
django.setup()

from django.core.management import call_command
from django.db import connections, transaction
from flujo import Pipeline, step

from flujo_site.models import LedgerEntry
from runs.models import Checkpoint
from runs.state_backend import DjangoBackend
from tests.engine.making import runner_of

MOMENTS = ("before", "between", "behind", "committed")
KILLS = 3  # with the kill before them at most four of one step: the fifth would fail the run
STEPS = 6
LONGEST = 0.1


def main() -> None:
    call_command("migrate", verbosity=0)
    chance = random.Random(11)
    for moment in (*MOMENTS, *MOMENTS, *[""] * KILLS):
        connections.close_all()
        worker = os.fork()
        if worker == 0:
            work(moment)
        if not moment:
            time.sleep(chance.uniform(0.02, LONGEST))
            os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        print(*counts())
    connections.close_all()
    print(runner_of(pipeline(), DjangoBackend()).run(0, run_id="r").status, *counts())


def work(moment: str) -> None:
    runner_of(pipeline(moment), DjangoBackend()).run(0, run_id="r")
    os._exit(0)


def pipeline(moment: str = "") -> Pipeline:
    """Steps that each write two rows, and die at this moment."""

    def come_to(reached: str) -> None:
        time.sleep(0.003)
        if reached == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def write() -> None:
        key = secrets.token_hex(8)
        LedgerEntry.objects.create(
            run_id="r", invoice_number=key, supplier="s", issued_on="2026-01-02", total=1, idempotency_key=key
        )

    def pay(value: int) -> int:
        come_to("before")
        write()
        come_to("between")
        write()
        come_to("behind")
        transaction.on_commit(lambda: come_to("committed"))
        return value + 1

    return Pipeline([step(name=f"s{number}", transactional=True)(pay) for number in range(STEPS)])


def counts() -> tuple[str, int]:
    """Pairs of rows, and checkpoints."""
    return f"{LedgerEntry.objects.count() / 2:g}", Checkpoint.objects.count()


if __name__ == "__main__":
    main()
