"""`manage.py rotate_keys`: seal every stored value with the newest encryption key."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from flujo.commands.output import Output
from flujo.commands.rotate_keys import report

from runs.management.commands.serve import refuse_unmigrated
from runs.state_backend import DjangoBackend


class Command(BaseCommand):
    """Exits with 0 when the first key opens every value, with 1 when others are still needed."""

    help = "Seal every stored value with the first of the encryption keys. Safe beside running workers."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_unmigrated()
        if report(Output(as_json=options["json"]), asyncio.run(DjangoBackend().rotate_keys())):
            sys.exit(1)
