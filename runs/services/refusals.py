"""What people are refused, in the site's audit: one rule for every service, page and command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flujo.errors import BackendError, FlujoError, InvalidAnswer, InvalidInput, UnstorableValue

from runs.models import Run, Tombstone
from runs.services import site_audit
from runs.services.origin import Origin


@contextmanager
def recorded(verb: str, *, actor: str, origin: Origin, run_id: str = "", **facts: str) -> Iterator[None]:
    """Record what the block refuses. It stands around the transaction, since a refusal rolls that back."""
    try:
        yield
    except FlujoError as refusal:
        record(verb, refusal, actor=actor, origin=origin, run_id=run_id, **facts)
        raise


def record(verb: str, refusal: FlujoError, *, actor: str, origin: Origin, run_id: str = "", **facts: str) -> None:
    """Record that `actor` was refused, unless the store failed, or there never was such a run."""
    if isinstance(refusal, BackendError) or (run_id and not _known(run_id)):
        return
    told = {"verb": verb, "code": refusal.code, "message": message_of(refusal), **facts}
    site_audit.record("action.refused", actor=actor, run_id=run_id, origin=origin, **told)


def message_of(refusal: FlujoError) -> str:
    """What is told of a refusal: of values that do not fit nothing, since what their errors say may quote them."""
    quotes = isinstance(refusal, InvalidAnswer | InvalidInput | UnstorableValue)
    return type(refusal)().message if quotes else refusal.message


def _known(run_id: str) -> bool:
    return any(model.objects.filter(pk=run_id).exists() for model in (Run, Tombstone))
