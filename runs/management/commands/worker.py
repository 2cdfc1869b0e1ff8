"""`manage.py worker`: executes ready runs without serving pages."""

from __future__ import annotations

import logging
import os
import signal
from argparse import ArgumentParser
from threading import Event
from typing import Any

from django.core.management.base import BaseCommand

from runs.management.commands.serve import refuse_unmigrated
from runs.sweeper import Sweeper
from runs.worker import CONCURRENCY, Worker

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Execute ready runs. SIGTERM or Ctrl-C finishes the present steps and gives the runs back."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--concurrency", type=int, default=CONCURRENCY, help="runs executed at once (default: %(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_unmigrated()
        stopping = Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        worker, sweeper = Worker(concurrency=options["concurrency"]), Sweeper()
        worker.start()
        sweeper.start()
        self.stdout.write("The worker is ready. Ctrl-C stops it.")
        self.stdout.flush()
        stopping.wait()
        sweeper.stop(timeout=2)
        if not worker.stop():
            logger.warning("A step did not end in time; its run goes on from the last checkpoint at the next start.")
            logging.shutdown()
            os._exit(0)
