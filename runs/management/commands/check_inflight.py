"""`manage.py check_inflight`: which unfinished runs the code being deployed would not go on with."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from flujo.commands.check import report
from flujo.commands.output import Output
from flujo.inflight import check_inflight

from runs.management.commands.serve import refuse_unmigrated
from runs.registry import registry
from runs.state_backend import DjangoBackend


class Command(BaseCommand):
    """Exits with 0 when all unfinished runs can go on, with 1 when some cannot."""

    help = "List the unfinished runs whose steps this code has not, or has in another order. For before a deploy."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_unmigrated()
        unfinished, found = asyncio.run(check_inflight(DjangoBackend(), registry))
        if report(Output(as_json=options["json"]), unfinished, found):
            sys.exit(1)
