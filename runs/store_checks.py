"""Deployment checks that look at the running parts: the database's durability, its guards, and the socket stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from channels.routing import get_default_application
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.db import DatabaseError, connection
from django.db.models.functions import Substr
from flujo.state.payloads import BEGINNING, JSON, key_of

from runs.encryption import SealedRow, site_keys
from runs.live.same_origin import SameOrigin
from runs.models import RunInput, Schedule
from runs.store_health import durability, unguarded

AT_EACH_END = 1_000
_VALUES: dict[Any, tuple[str, ...]] = {
    **{model: JSON[model.sealed_as] for model in SealedRow.__subclasses__() if model.sealed_as in JSON},
    Schedule: ("input",),
}


def check_store(**_: Any) -> list[CheckMessage]:
    """What is acknowledged must be durable, and history must be append-only."""
    if settings.DATABASES["default"].get("ATOMIC_REQUESTS"):
        hint = "Remove ATOMIC_REQUESTS: a decision commits by itself, and its refusal is recorded by itself."
        return [checks.Warning("Every request is one transaction.", hint=hint, id="flujo.W030")]
    try:
        return [*_durability(), *_guards(), *_keys()]
    except DatabaseError as error:
        hint = "Start the database, check its address, and run manage.py migrate."
        return [checks.Warning(f"The database cannot be asked: {error}", hint=hint, id="flujo.W031")]


def _durability() -> Iterator[CheckMessage]:
    for name, found, value in durability(connection):
        if found != value:
            hint = f"Set it to {value}, or commits that were acknowledged can be lost."
            yield checks.Warning(f"The database runs with {name} = {found}.", hint=hint, id="flujo.W032")
    mode = connection.settings_dict["OPTIONS"].get("transaction_mode")
    if connection.vendor == "sqlite" and mode != "IMMEDIATE":
        hint = 'Set OPTIONS["transaction_mode"] to IMMEDIATE, or writers fail with "database is locked".'
        yield checks.Warning("SQLite's transactions start deferred.", hint=hint, id="flujo.W033")


def _guards() -> Iterator[CheckMessage]:
    for table in unguarded(connection):
        yield checks.Warning(
            f"Nothing in the database protects {table}.", hint="Run manage.py migrate.", id="flujo.W034"
        )


def _keys() -> Iterator[CheckMessage]:
    """Which keys are missing, by the newest and the oldest values: `python -m flujo doctor django:` looks at all."""
    keys = site_keys()
    found: set[str] = set()
    for model, fields in _VALUES.items():
        order = "run__created_at" if model is RunInput else "pk"
        beginnings = [Substr(field, 1, BEGINNING) for field in fields]
        for rows in (model.objects.order_by(order), model.objects.order_by(f"-{order}")):
            found.update(key_of(text or "") for row in rows.values_list(*beginnings)[:AT_EACH_END] for text in row)
    for key_id in sorted(found - {"", *(keys.ids if keys else ())}):
        hint = "Put it back into the file that FLUJO_ENCRYPTION_KEYS_FILE names: nobody can read these values."
        message = f"Stored values are sealed with the key {key_id}, which this site does not have."
        yield checks.Error(message, hint=hint, id="flujo.E037")


def check_sockets(**_: Any) -> Iterator[CheckMessage]:
    """A socket must come from the site's own pages, and every process must hear of every change."""
    stack = getattr(get_default_application(), "application_mapping", {}).get("websocket")
    if not isinstance(stack, SameOrigin):
        hint = "Serve runs.live.routing.application as the websocket application."
        yield checks.Warning("Pages of other sites can open the socket.", hint=hint, id="flujo.W035")
    in_memory = settings.CHANNEL_LAYERS["default"]["BACKEND"].endswith("InMemoryChannelLayer")
    if in_memory and connection.vendor != "sqlite":
        hint = "Set FLUJO_REDIS_URL; with one process you may silence this check."
        yield checks.Warning("Live updates stay inside one process.", hint=hint, id="flujo.W036")
