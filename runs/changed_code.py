"""Runs whose own code is not registered in this process, and what their policies say is to happen to them."""

from __future__ import annotations

from datetime import datetime

from asgiref.sync import sync_to_async
from django.db.models import Q
from flujo import PipelineRegistry, transitions
from flujo.deploy import Course, settle, settling
from flujo.errors import CorruptState, Fenced, RunFinished, RunIsLeased
from flujo.state.ready import is_ready
from flujo.status import OnChange, RunStatus

from runs.models import Run
from runs.state_backend import DjangoBackend

AT_ONCE = 100


async def follow_policies(backend: DjangoBackend, registry: PipelineRegistry, now: datetime) -> list[tuple[str, str]]:
    """Park or migrate the ready runs of this process's pipelines whose own code it lacks; why each was parked.

    Runs of pipelines of which it has no version at all are the business of other processes.
    """
    parked = []
    for run_id in await sync_to_async(_candidates)(backend.using, registry, now):
        try:
            why = await _follow_policy(run_id, backend, registry, now)
        except (Fenced, RunIsLeased, RunFinished):
            continue  # it moved meanwhile: another look comes soon
        except CorruptState as error:
            why = error.message  # nothing can be done with it here, but with the others
        if why:
            parked.append((run_id, why))
    return parked


async def _follow_policy(run_id: str, backend: DjangoBackend, registry: PipelineRegistry, now: datetime) -> str:
    """Why the run was parked; "" when it was not."""
    await backend.transact(run_id, transitions.ring(now=now))  # what is due at a question needs none of the code
    document = await backend.load(run_id)
    if document is None or document.head is None or not is_ready(document.head, now):
        return ""
    verdict = await settle(registry, document, backend, now)
    return verdict.why if verdict.course is Course.PARK else ""


def settle_now(run_id: str, registry: PipelineRegistry, now: datetime) -> bool:
    """Follow the policy of one run with which a person wanted to go on; whether it was migrated, and can."""
    backend = DjangoBackend()
    document = backend.load_now(run_id)
    if document is None or document.head is None:
        return False
    verdict, transition = settling(registry, document, now)
    if transition is not None:
        backend.transact_now(run_id, transition)
    return verdict.course is Course.MIGRATE


def _candidates(using: str, registry: PipelineRegistry, now: datetime) -> list[str]:
    ready = (
        Q(status=RunStatus.QUEUED)
        | Q(status=RunStatus.PAUSED, wake_at__lte=now)
        | Q(status=RunStatus.RUNNING, lease_expires_at__lte=now)
    )
    runs = Run.objects.using(using).filter(ready, pipeline__in=registry.names())
    for name in registry.names():
        for version in registry.versions(name):
            entry = registry.get(name, version)
            runs = runs.exclude(pipeline=name, version=version, fingerprint=entry.fingerprint)
    pinned = [name for name in registry.names() if registry.get(name).on_change is OnChange.PIN]
    runs = runs.exclude(on_change=OnChange.PIN).exclude(on_change=None, pipeline__in=pinned)
    return list(runs.order_by("updated_at").values_list("run_id", flat=True)[:AT_ONCE])
