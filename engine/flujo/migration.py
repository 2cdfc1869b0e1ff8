"""What a migration to another version is given, what it gives, and what comes of it as a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flujo import canonical
from flujo.context import Fields
from flujo.paths import migration_path
from flujo.records import Checkpoint, HumanTask, RunHead, RunInput, RunWait


@dataclass(frozen=True, slots=True)
class StoredRun:
    """What a migration is given: where the run stands, as JSON values. `outputs` is by path."""

    run_id: str
    version: str
    next_step: str
    input: Any
    context: dict[str, Any]
    outputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration gives.

    `renamed` maps the paths of saved steps to what they are called now (without positions in maps and loops); `given`
    has outputs for steps that the run is to pass over; `context` is the whole new context, None for an unchanged one.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise `TypeError` in the migration itself, which parks the run."""
        for name in ("renamed", "given", "context"):
            value = getattr(self, name)
            if name == "context" and value is None:
                continue
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise TypeError(f"{name} is a dictionary whose keys are texts, not {type(value).__name__}.")
        if not all(isinstance(path, str) for path in self.renamed.values()):
            raise TypeError("renamed maps paths to paths.")


Migrate = Callable[[StoredRun], Migrated | None]


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What a migration would write. `seq` is that of the run it was planned on: it holds for that alone."""

    run_id: str
    seq: int
    before: tuple[str, str]
    after: tuple[str, str]
    step_index: int
    step_count: int
    step_name: str
    start: RunInput
    inserts: list[Checkpoint]
    updates: list[Checkpoint | HumanTask]
    closes: list[HumanTask | RunWait]
    renamed: dict[str, str]
    given: list[str]
    context_changes: Fields
    removed: list[str]
    added: list[str]

    def context_row(self, head: RunHead) -> Checkpoint | None:
        """The row that changes the context, if the migration does; `head` is the run after the migration's event."""
        if not self.context_changes:
            return None
        text, moment = canonical.dump(self.context_changes), head.updated_at
        name, position = f"migration to {self.after[0]}", max(self.step_index - 1, 0)
        path = migration_path(head.seq)
        return Checkpoint(head.run_id, path, name, position, head.seq, head.fence, 0, "null", text, moment, moment)

    def to_plain(self) -> dict[str, Any]:
        """What would happen, as JSON values."""
        return {
            "run_id": self.run_id,
            "from": {"version": self.before[0], "fingerprint": self.before[1]},
            "to": {"version": self.after[0], "fingerprint": self.after[1]},
            "next_step": self.step_name,
            "renamed": self.renamed,
            "given": self.given,
            "asked_again": [row.path for row in self.closes],
            "context_changes": self.context_changes,
            "never_run": self.removed,
            "new_steps": self.added,
        }
