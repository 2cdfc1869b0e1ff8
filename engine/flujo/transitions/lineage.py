"""Lineage: which run a new run comes from, and what it takes over from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from flujo import canonical
from flujo.batch import Draft
from flujo.records import Checkpoint
from flujo.status import EventKind

NO_FENCE = 0


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a new run comes from. `step` is "" for a rerun; a fork begins with it, at the top-level `index`.

    `taken` are the checkpoints of the steps before, `edits` what was changed in the context (`pointer`, `before`,
    `after`), `edits_by_digest` the same for a store that encrypts values; `seq` and `chain` say how far the history of
    the other run went.
    """

    run_id: str
    reason: str = ""
    step: str = ""
    index: int = 0
    taken: tuple[Checkpoint, ...] = ()
    edits: tuple[dict[str, Any], ...] = ()
    edits_by_digest: tuple[dict[str, Any], ...] = ()
    seq: int = 0
    chain: str = ""


def take_over(draft: Draft, lineage: Lineage, facts: dict[str, Any]) -> None:
    """Record the fork, and copy what it begins behind: each copied checkpoint has an event of its own.

    The other run gets no event: it may have ended, and its history stays what it was. Who looks at it finds its forks
    by their `derived_from`. A copied checkpoint has the fencing token 0, since no worker of this run made it.
    """
    draft.event(
        EventKind.RUN_FORKED,
        lineage.step,
        run=lineage.run_id,
        seq=lineage.seq,
        chain=lineage.chain,
        edits=list(lineage.edits_by_digest if draft.view.seals else lineage.edits),
        reason=lineage.reason,
        **facts,
    )
    for checkpoint in lineage.taken:
        draft.event(
            EventKind.STEP_TAKEN_OVER,
            checkpoint.path,
            output_digest=canonical.digest(checkpoint.output),
            context_digest=canonical.digest(checkpoint.context_changes) if checkpoint.context_changes else None,
        )
        draft.insert(
            dataclasses.replace(checkpoint, run_id=draft.head.run_id, seq=draft.has("seq"), fence=NO_FENCE, attempt=0)
        )
