"""A run made from another one: permission, the new run and the hint in one transaction, refusals audited."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.db import transaction
from django.utils import timezone
from flujo import canonical, transitions
from flujo.document import RunDocument
from flujo.errors import RunNotFound
from flujo.transitions import NewRun

from runs import access, dispatch
from runs.models import Run
from runs.services.refusals import recorded
from runs.state_backend import DjangoBackend

if TYPE_CHECKING:
    from runs.services.origin import Origin


def derive(
    actor: access.User, verbs: list[str], run_id: str, make: Callable[[RunDocument], NewRun], origin: Origin
) -> Run:
    """Queue the run that `make` makes of the stored one, which `actor` may see and do all of `verbs` on.

    Raises `RunNotFound` when `actor` may not see it, `NotAllowed`, and what `make` raises.
    """
    name = actor.get_username()
    with recorded(verbs[0], actor=name, origin=origin, run_id=run_id), transaction.atomic():
        run = access.visible_to(actor).filter(pk=run_id).first()
        document = DjangoBackend().load_now(run_id) if run is not None else None
        if run is None or document is None:
            raise RunNotFound("There is no such run, or you may not see it.")
        for verb in verbs:
            access.require(actor, verb, run.pipeline)
        new = make(document)
        started = transitions.start(new, now=timezone.now(), claim=None, actor=name, facts=origin.facts())
        DjangoBackend().transact_now(new.run_id, started)
        dispatch.hint_on_commit(new.run_id)
        return Run.objects.get(pk=new.run_id)


def id_for(key: str, *what: object) -> str:
    """The id of the run that a form's `key` and all that was asked for stand for: asked for twice, it is one run."""
    return canonical.digest(canonical.dump([key, *what]))[:32]
