"""The command that fills a new site: `manage.py demo` makes the demo's accounts, runs and schedule, once."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from flujo_site import demo_accounts, demo_runs, demo_schedules


class Command(BaseCommand):
    """Creates what is missing of the demo and says how to sign in."""

    help = "Make the demo's accounts, runs and schedule. Only in demo mode (FLUJO_DEMO=1 with FLUJO_DEBUG=1)."

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.FLUJO_DEMO:
            raise CommandError(
                "The demo's passwords are public, so they exist only in demo mode: set FLUJO_DEMO=1 and FLUJO_DEBUG=1."
            )
        demo_accounts.create()
        made = demo_runs.create()
        if made == len(demo_runs.RUNS):
            demo_schedules.create()
        self.stdout.write(f"Demo: {made} runs made." if made else "Demo: everything is there already.")
        self.stdout.write("Sign in with one of these names and passwords:")
        for name, duty in demo_accounts.DUTIES.items():
            self.stdout.write(f"  {name:<9} {demo_accounts.password_of(name):<14} {duty}")
