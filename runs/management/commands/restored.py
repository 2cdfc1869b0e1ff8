"""`manage.py restored`: take up the site's store after a backup was put back."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from flujo.commands.command import acts
from flujo.commands.output import Output
from flujo.commands.restored import take_up

from runs.management.commands.serve import refuse_unmigrated
from runs.state_backend import DjangoBackend


class Command(BaseCommand):
    """Exits with 0 when every run that can go on was taken up, with 1 when some could not be."""

    help = "After a backup was put back: refuse the workers and forms of the time since. Harmless to repeat."

    def add_arguments(self, parser: CommandParser) -> None:
        acts(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_unmigrated()
        out = Output(as_json=options["json"])
        if asyncio.run(take_up(DjangoBackend(), out, actor=options["actor"], reason=options["reason"])):
            sys.exit(1)
