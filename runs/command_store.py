"""The site's store and registry for `python -m flujo COMMAND django:`; importing this sets Django up."""

from __future__ import annotations

import os

import django
from django.core.exceptions import ImproperlyConfigured
from flujo.commands.command import NotThere
from flujo.errors import FlujoError

if not os.environ.get("DJANGO_SETTINGS_MODULE"):
    raise NotThere("A django: store needs a site: set DJANGO_SETTINGS_MODULE, for this one to flujo_site.settings.")
try:
    django.setup()
except (ImportError, ImproperlyConfigured) as error:
    raise NotThere(f"The site {os.environ['DJANGO_SETTINGS_MODULE']} cannot be set up: {error}") from error

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import OperationalError

from runs.registry import registry
from runs.services import refusals
from runs.services.origin import Origin
from runs.state_backend import DjangoBackend

__all__ = ["open_store", "registry"]


def open_store(using: str = DEFAULT_DB_ALIAS) -> DjangoBackend:
    """The store in the site's database `using`. Raises `NotThere` when it is not there or lacks migrations."""
    if using not in connections:
        raise NotThere(f"The site has no database {using!r}, but {', '.join(connections)}.")
    try:
        executor = MigrationExecutor(connections[using])
        newest = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "flujo_runs"]
        behind = executor.migration_plan(newest)
    except OperationalError as error:
        raise NotThere(f"The site's database {using!r} cannot be opened: {error}") from error
    finally:
        connections[using].close()
    if behind:
        raise NotThere(f"The site's database {using!r} is not up to date. Run: manage.py migrate")
    return CommandStore(using)


class CommandStore(DjangoBackend):
    """The site's store, which tells the site's audit of what the command line was refused."""

    async def refused(self, verb: str, run_id: str, actor: str, error: FlujoError) -> None:
        origin = Origin(channel="cli")
        await self._in_thread(lambda: refusals.record(verb, error, actor=actor, origin=origin, run_id=run_id))
