"""`manage.py serve`: the whole site in one process: web server, worker and sweeper."""

from __future__ import annotations

import errno
import logging
import os
import socket
from argparse import ArgumentParser
from typing import Any

from channels.routing import get_default_application
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import OperationalError

from runs import site_settings
from runs.sweeper import Sweeper
from runs.worker import CONCURRENCY, Worker

logger = logging.getLogger(__name__)

BACKLOG = 128


class Command(BaseCommand):
    help = "Serve the console, execute runs and sweep, in one process. SIGTERM or Ctrl-C ends it in order."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, default=8000, help="port, 0 for a free one (default: %(default)s)")
        parser.add_argument(
            "--concurrency", type=int, default=CONCURRENCY, help="runs executed at once (default: %(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        from runs.live.server import Server, when_running  # late: importing it installs Twisted's reactor

        refuse_unmigrated()
        listening = bound(options["host"], options["port"])
        self._worker, self._sweeper = Worker(concurrency=options["concurrency"]), Sweeper()
        server = Server(
            get_default_application(),
            descriptor=listening.fileno(),
            body_limit=site_settings.max_upload_bytes() + settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
        )
        self._address = address_of(listening)
        when_running(self._begin, self._end)
        logging.getLogger("daphne").setLevel(logging.WARNING)  # what it has to say at the start is said here
        server.run()
        self._leave()

    def _begin(self) -> None:
        self._worker.start()
        self._sweeper.start()
        self.stdout.write(f"Flujo is at {self._address}")
        if site_settings.demo():
            self.stdout.write("Sign in as operator, approver, auditor or admin; the password is the name and -demo.")
        self.stdout.write("Ctrl-C stops it.")
        self.stdout.flush()

    def _end(self) -> Any:
        from twisted.internet.threads import deferToThread

        return deferToThread(self._drain)

    def _drain(self) -> None:
        self._sweeper.stop(timeout=2)
        self._worker.stop()

    def _leave(self) -> None:
        """A step that will not end must not keep the process: its lease is taken over at the next start."""
        if self._worker.alive:
            logger.warning("A step did not end in time; its run goes on from the last checkpoint at the next start.")
            logging.shutdown()
            os._exit(0)


def refuse_unmigrated() -> None:
    """Raise `CommandError` while the database lacks migrations, or cannot be reached."""
    try:
        executor = MigrationExecutor(connection)
        behind = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except OperationalError as error:
        raise CommandError(f"The database cannot be opened: {error}", returncode=2) from error
    if behind:
        raise CommandError("The database is not up to date. Run: manage.py migrate", returncode=2)
    if not connection.in_atomic_block:
        connection.close()


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; a port in use is said in one line, before anything is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise CommandError(f"Port {port} on {host} is in use: stop what uses it, or give a --port.") from error
        raise CommandError(f"Cannot listen on {host}, port {port}: {error.strerror}.") from error
    listening.listen(BACKLOG)
    listening.settimeout(0)
    return listening


def address_of(listening: socket.socket) -> str:
    """The address to open in a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
