"""The audit chains of all stores that the tests leave behind, verified before the suite ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from flujo.errors import AuditChainBroken

Histories = Callable[[], Iterable[Iterable[Any]]]


class AuditOfStores:
    """Collects the stores and counts what was verified; `broken` names each chain that did not hold."""

    def __init__(self) -> None:
        self.stores: list[tuple[str, Histories]] = []
        self.broken: list[str] = []
        self.chains = 0
        self.events = 0

    def leave(self, label: str, histories: Histories) -> None:
        """Remember a store that is verified when the suite ends."""
        self.stores.append((label, histories))

    def check_files(self) -> None:
        """Verify every store that was left."""
        for label, histories in self.stores:
            for history in histories():
                try:
                    self._verify(list(history))
                except AuditChainBroken as error:
                    self.broken.append(f"{label}: {error}")

    def check_databases(self, aliases: Iterable[str]) -> None:
        """Verify all rows of the Django databases; raises, so that the test that broke a chain is the one to fail."""
        for alias in aliases:
            for history in _rows(alias):
                self._verify(history)

    def _verify(self, events: list[Any]) -> None:
        try:
            from flujo.verify import verify_chain
        except ImportError:
            return

        verify_chain(events)
        self.chains += 1
        self.events += len(events)

    def summary(self) -> list[str]:
        """What the run says at its end."""
        return [
            *(f"BROKEN {line}" for line in self.broken),
            f"{self.chains} histories with {self.events} events verified, {len(self.broken)} broken",
        ]


def _rows(alias: str) -> Iterable[list[Any]]:
    from django.db import connections

    from runs.models import AuditEvent

    connection = connections[alias]
    if connection.in_atomic_block and connection.needs_rollback:
        return
    events = AuditEvent.objects.using(alias).order_by("run_id", "seq")
    for _, history in groupby(events, key=lambda event: event.run_id):
        yield list(history)
