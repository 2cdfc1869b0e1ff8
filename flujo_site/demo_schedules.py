"""The demo's schedule: the clean invoices, every night."""

from django.contrib.auth.models import User

from flujo_site.demo_runs import ORIGIN
from runs.services.schedules import Terms, save

NIGHTLY = Terms(
    name="Nightly intake",
    cron="30 2 * * *",
    zone="Europe/Berlin",
    every=None,
    enabled=True,
    skips_while_active=True,
    data={"sample": "invoices-clean.csv"},
)


def create() -> None:
    """Make the schedule; what became of it later is for the people of the site to say."""
    operator = User.objects.get(username="operator")
    save(actor=operator, pipeline="invoice-intake", schedule=None, terms=NIGHTLY, origin=ORIGIN)
