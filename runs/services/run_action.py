"""An operator's action on one run: permission, transition and hint in one transaction, refusals audited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction
from flujo.batch import Transition
from flujo.errors import RunNotFound

from runs import access, dispatch
from runs.models import Run
from runs.services.refusals import recorded
from runs.state_backend import DjangoBackend

if TYPE_CHECKING:
    from runs.services.origin import Origin


def act(actor: access.User, verb: str, run_id: str, transition: Transition, origin: Origin) -> Run:
    """Apply `transition` to a run that `actor` may see and do `verb` on, and wake its worker.

    Raises `RunNotFound` when `actor` may not see it, `NotAllowed`, and what the transition raises.
    """
    with recorded(verb, actor=actor.get_username(), origin=origin, run_id=run_id), transaction.atomic():
        run = access.visible_to(actor).filter(pk=run_id).first()
        if run is None:
            raise RunNotFound("There is no such run, or you may not see it.")
        access.require(actor, verb, run.pipeline)
        DjangoBackend().transact_now(run_id, transition)
        dispatch.hint_on_commit(run_id)
        run.refresh_from_db()
        return run
