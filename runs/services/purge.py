"""The deletion of stale runs: a preview that freezes what was seen, and a purge that checks it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core import signing
from django.utils import timezone
from flujo.batch import Batch, RunView, Transition
from flujo.errors import FlujoError, InvalidInput, NotAllowed, RunNotFound
from flujo.records import RunHead
from flujo.transitions import purge as purge_transition

from runs import access
from runs.queries.state import Criteria, Kept, Sample, kept_of, payload_bytes, samples_of, stale
from runs.services.origin import Origin
from runs.services.refusals import recorded
from runs.state_backend import DjangoBackend

AT_ONCE = 1000
VALID_FOR = 60 * 60
LONGEST_REASON = 500
_SALT = "flujo.cleanup"


class PreviewOutdated(FlujoError):
    """The preview is damaged, more than an hour old, or another person's. Look at it again, then confirm."""

    code = "preview_outdated"


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a preview showed: the runs it would delete with the `seq` each had, and the moment that makes them stale."""

    cutoff: datetime
    seqs: Mapping[str, int]

    def text(self, actor: Any) -> str:
        """The frozen preview as a signed word that only `actor` can use."""
        facts = [actor.pk, self.cutoff.isoformat(), list(self.seqs.items())]
        return signing.dumps(facts, salt=_SALT, compress=True)

    @classmethod
    def read(cls, text: str, actor: Any) -> Frozen:
        """The preview that `text` freezes. Raises `PreviewOutdated`."""
        try:
            owner, cutoff, seqs = signing.loads(text, salt=_SALT, max_age=VALID_FOR)
        except signing.BadSignature as error:
            raise PreviewOutdated from error
        if owner != actor.pk:
            raise PreviewOutdated
        return cls(datetime.fromisoformat(cutoff), dict(seqs))


@dataclass(frozen=True, slots=True)
class Preview:
    """What a cleanup would delete, and what it would keep and why."""

    criteria: Criteria
    frozen: Frozen
    eligible: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None
    samples: list[Sample]
    kept: list[Kept]

    @property
    def count(self) -> int:
        """How many runs a confirmation deletes: all that are eligible, up to a thousand at once."""
        return len(self.frozen.seqs)

    @property
    def left(self) -> int:
        return self.eligible - self.count

    @property
    def kept_count(self) -> int:
        return sum(group.count for group in self.kept)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A run that was not deleted, and the sentence that says why."""

    run_id: str
    why: str


@dataclass(slots=True)
class PurgeResult:
    """What a purge did."""

    deleted: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def preview(actor: Any, criteria: Criteria) -> Preview:
    """What `purge` would do now with the runs that `criteria` finds: the longest untouched ones first."""
    cutoff = criteria.cutoff(timezone.now())
    matching = stale(actor, criteria, cutoff)
    deletable = access.pipelines_for(actor, "delete")
    eligible = criteria.eligible(matching, deletable)
    chosen = list(eligible.order_by("updated_at", "pk")[:AT_ONCE])
    return Preview(
        criteria=criteria,
        frozen=Frozen(cutoff, {run.pk: run.seq for run in chosen}),
        eligible=eligible.count() if len(chosen) == AT_ONCE else len(chosen),
        bytes=payload_bytes([run.pk for run in chosen]),
        oldest=chosen[0].updated_at if chosen else None,
        newest=chosen[-1].updated_at if chosen else None,
        samples=samples_of(chosen),
        kept=kept_of(matching, deletable),
    )


def purge(
    *,
    actor: Any,
    run_ids: Iterable[str],
    reason: str,
    origin: Origin,
    seen: Mapping[str, int] | None = None,
    untouched_since: datetime | None = None,
) -> PurgeResult:
    """Delete finished runs, each in a transaction of its own that checks everything again; the others are named.

    A run is kept when it is active, when `actor` may not delete it, when its `seq` is not the one in `seen`, or when
    something happened to it after `untouched_since`. Raises `NotAllowed` for someone who may delete no run at all,
    `InvalidInput` without a reason.
    """
    require_delete(actor, origin)
    name, reason = actor.get_username(), reason.strip()
    with recorded("delete", actor=name, origin=origin):
        if not reason or len(reason) > LONGEST_REASON:
            raise InvalidInput(f"Say why, in 1 to {LONGEST_REASON} characters: the reason stays in the audit.")
    result = PurgeResult()
    for run_id in run_ids:
        check = _check(actor, run_id, seen, untouched_since)
        transition = purge_transition(
            actor=name, reason=reason, now=timezone.now(), facts=origin.facts(), allowed=check
        )
        try:
            with recorded("delete", actor=name, origin=origin, run_id=run_id):
                DjangoBackend().transact_now(run_id, _of_visible(actor, transition))
        except FlujoError as error:
            result.skipped.append(Skipped(run_id, error.message))
        else:
            result.deleted.append(run_id)
    return result


def _of_visible(actor: Any, transition: Transition) -> Transition:
    """The transition of a run that `actor` may see; any other one is, for `actor`, not there."""

    def checked(view: RunView) -> Batch:
        row = view.head or view.tombstone
        if row is not None and not access.may(actor, "view", row.pipeline):
            raise RunNotFound(f"No run has the id {view.run_id!r}.")
        return transition(view)

    return checked


def require_delete(actor: Any, origin: Origin) -> None:
    """Raise `NotAllowed`, and record that, for someone who may delete runs of no pipeline."""
    with recorded("delete", actor=actor.get_username(), origin=origin):
        if access.pipelines_for(actor, "delete") == set():
            raise NotAllowed("You may not delete runs. An administrator can grant your group 'delete' on a pipeline.")


def _check(actor: Any, run_id: str, seen: Mapping[str, int] | None, untouched_since: datetime | None) -> Any:
    """What is asked of a run inside the transaction that deletes it."""

    def keep(head: RunHead) -> str | None:
        if not access.may(actor, "delete", head.pipeline):
            return f"You may not delete runs of {head.pipeline}."
        changed = seen is not None and head.seq != seen[run_id]
        if changed or (untouched_since is not None and head.updated_at >= untouched_since):
            return f"It changed since the preview: it is {head.status.value} since {head.updated_at:%H:%M:%S} UTC."
        return None

    return keep
