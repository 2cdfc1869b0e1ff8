"""The command that proves the audit chains, or names the first bad event of each broken one."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from runs.management.commands.serve import refuse_unmigrated
from runs.services.verify import Report, verify


class Command(BaseCommand):
    """Exits with 0 when all chains are intact, with 1 when history was changed."""

    help = "Verify the audit chains of all runs and of the site."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--site-head",
            default="",
            metavar="SEQ:HASH",
            help="the head of the site's chain as an earlier run of this command printed it, kept elsewhere",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_unmigrated()
        reports = verify(noted_head=options["site_head"])
        for report in reports:
            self._show(report)
        if not all(report.intact for report in reports):
            sys.exit(1)

    def _show(self, report: Report) -> None:
        if report.unread:
            self.stderr.write(
                f"{report.unread:,} values were not compared: the site lacks the keys they are encrypted with"
            )
        chains = f" of {report.chains:,} runs" if report.store == "runs" else ""
        if report.intact:
            head = f", head {report.head}" if report.head else ""
            self.stdout.write(self.style.SUCCESS(f"{report.store}: intact, {report.events:,} events{chains}{head}"))
            return
        self.stderr.write(self.style.ERROR(f"{report.store}: BROKEN, {report.bad:,} problems{chains}"))
        for problem in report.problems:
            where = f"run {problem.run_id}: " if problem.run_id else ""
            self.stderr.write(f"  {where}{problem.sentence}")
