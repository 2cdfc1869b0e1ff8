"""A right that is taken away between the moment it is looked at and the moment the decision is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
from django.db import connection
from flujo import PipelineRegistry, Step
from flujo.errors import NotAllowed
from flujo.status import DecisionOutcome, RunStatus
from pydantic import BaseModel, field_validator

from runs.models import PipelineGrant
from runs.services import decide
from runs.services.origin import Origin
from tests.runs import factories

WAIT_SECONDS = 0.5


class Terms(BaseModel):
    """The answer's form. Its validator runs within the decision: there the administrator strikes."""

    limit: int

    @field_validator("limit")
    @classmethod
    def meanwhile(cls, value: int) -> int:
        STRIKES[-1].strike()
        return value


class Strike:
    """An administrator who takes the right to decide from everybody; `was_first` when that is committed at once."""

    def __init__(self) -> None:
        self.was_first = False
        self._thread = Thread(target=self._revoke)

    def strike(self) -> None:
        if not self._thread.ident:
            self._thread.start()
            self._thread.join(WAIT_SECONDS)
            self.was_first = not self._thread.is_alive()

    def _revoke(self) -> None:
        PipelineGrant.objects.filter(verb="decide").delete()
        connection.close()

    def wait(self) -> None:
        self._thread.join()


STRIKES: list[Strike] = []


@contextmanager
def _registered() -> Iterator[None]:
    known = PipelineRegistry()
    known.register(Step.human_in_the_loop("approve", input_schema=Terms), name="orders", version="1.0.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decide, "registry", known)
        yield


def take_the_right_away_within_a_decision() -> None:
    """Raises an `AssertionError` when a decision is accepted from somebody whose right was gone before."""
    STRIKES.append(Strike())
    person = factories.user("ana", can=["view", "decide"])
    run = factories.run(status=RunStatus.PAUSED, steps=("approve",))
    factories.audit_event(run)
    task = factories.human_task(run, kind="form")
    accepted = True
    with _registered():
        try:
            decide.decide(
                actor=person,
                task_id=task.pk,
                generation=task.generation,
                digest=task.digest,
                outcome=DecisionOutcome.APPROVED,
                data={"limit": 1},
                reason="",
                key="k",
                origin=Origin("ui"),
            )
        except NotAllowed:
            accepted = False
    STRIKES[-1].wait()
    assert not (accepted and STRIKES[-1].was_first), "the right was gone before the decision was recorded"
