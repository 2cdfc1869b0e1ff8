"""The site-wide audit chain: facts that belong to no run's history, such as refusals, sign-ins and exports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from django.db import connections, router, transaction
from django.utils import timezone
from flujo.batch import GENESIS, chained
from flujo.canonical import dump
from flujo.codec import isoformat

from runs.models import SiteEvent
from runs.services.origin import Origin

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

LONGEST = 500
LOCK = 0x666C756A6F  # "flujo": the PostgreSQL advisory lock that makes appends take turns

KINDS = frozenset(kind for kind, _ in SiteEvent.KINDS)

_acting: ContextVar[tuple[str, Origin | None]] = ContextVar("acting", default=("", None))


def record(kind: str, *, actor: str, run_id: str = "", origin: Origin | None, **data: Any) -> SiteEvent:
    """Append one event and return it: in a transaction of its own, or as part of the caller's.

    Call it outside the `atomic()` that a refusal rolls back, or the record of the refusal goes with it. Without an
    `origin` the channel is `system`. Texts are cut at 500 characters and their control characters replaced.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of site event: {', '.join(sorted(KINDS))}")
    facts = {**data, **(origin or Origin(channel="system")).facts()}
    alias = router.db_for_write(SiteEvent)
    with transaction.atomic(using=alias):
        _take_turns(connections[alias])
        last = SiteEvent.objects.using(alias).order_by("-seq").values_list("seq", "hash").first()
        seq, prev_hash = (last[0] + 1, last[1]) if last else (1, GENESIS)
        at = timezone.now()
        fields = {"seq": seq, "kind": kind, "actor": plain(actor)[:150], "run_id": plain(run_id)[:128]}
        body = dump({**fields, "at": isoformat(at), "data": _plain_values(facts)})
        return SiteEvent.objects.using(alias).create(
            **fields, at=at, body=body, prev_hash=prev_hash, hash=chained(prev_hash, body)
        )


def plain(text: str) -> str:
    """`text` as one storable line: no control characters, no half surrogate pairs, 500 characters at most."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:LONGEST])


@contextmanager
def acting(actor: str, origin: Origin) -> Iterator[None]:
    """Inside the block, changes that the ORM's signals report are recorded as done by `actor`."""
    token = _acting.set((actor, origin))
    try:
        yield
    finally:
        _acting.reset(token)


def acting_now() -> tuple[str, Origin | None]:
    """Who acts, and from where, for changes that only a signal reports; ("", None) outside `acting`."""
    return _acting.get()


def _plain_values(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(str(key)): _plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain_values(item) for item in value]
        return sorted(items) if isinstance(value, set | frozenset) else items
    return value


def _take_turns(connection: BaseDatabaseWrapper) -> None:
    """SQLite's IMMEDIATE transactions take turns by themselves; the unique `seq` is the second line of defence."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
