"""A run that is to be started: its input and context validated and encoded, and whether the backend can do it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from flujo import canonical
from flujo.admission import checked_priority
from flujo.context import fields_of, initial
from flujo.description import checked
from flujo.errors import BackendCannot, InvalidInput
from flujo.redaction import Secrets
from flujo.registry import RegisteredPipeline
from flujo.state.base import StateBackend
from flujo.status import OnChange
from flujo.step import Step
from flujo.transitions import NewRun


def new_run(
    entry: RegisteredPipeline,
    value: Any,
    context: dict[str, Any],
    *,
    title: str = "",
    owner: str = "",
    requester: str = "",
    tags: Sequence[str] = (),
    idempotency_key: str = "",
    priority: int | None = None,
    on_change: OnChange | str | None = None,
    parent: tuple[str, str] = ("", ""),
    secret_keys: Collection[str] = (),
) -> NewRun:
    """A run of `entry`, its input and context validated and encoded. Raises `InvalidInput`.

    `parent` is the id of the run that waits for it, and the path of the step that does; `secret_keys` are marked secret
    there.
    """
    checked(title=title, owner=owner, requester=requester, tags=tags)
    fields = fields_of(initial(entry.context_model, context))
    encoded = entry.encode_input(value)
    first = entry.pipeline.nodes[0]
    return NewRun(
        run_id=str(context["run_id"]),
        pipeline=entry.name,
        version=entry.version,
        fingerprint=entry.fingerprint,
        input=encoded,
        context=canonical.dump(fields, where="context"),
        shape=entry.pipeline.shape_text,
        step_count=len(entry.pipeline),
        step_name=first.name,
        title=title,
        owner=owner,
        requester=requester,
        tags=tuple(tags),
        idempotency_key=idempotency_key,
        priority=entry.priority if priority is None else checked_priority(priority),
        on_change=_policy(on_change),
        concurrency_key=entry.key_for(encoded),
        parent_run_id=parent[0],
        parent_path=parent[1],
        secrets=(entry.secrets | Secrets(frozenset(secret_keys))).to_text(),
    )


def _policy(word: OnChange | str | None) -> OnChange | None:
    try:
        return None if word is None else OnChange(word)
    except ValueError as error:
        raise InvalidInput(f"on_change is {', '.join(OnChange)}, not {word!r}.", errors=[]) from error


def check_capable(backend: StateBackend, entry: RegisteredPipeline) -> None:
    """Raise `BackendCannot` where a step asks for what the backend has not."""
    if backend.transactional_steps:
        return
    needs = [node.name for node in entry.pipeline.every_node() if isinstance(node, Step) and node.transactional]
    if needs:
        raise BackendCannot(
            f"{type(backend).__name__} has no transactions for the step {needs[0]!r} of {entry.name} "
            f"{entry.version}. Use the ORM backend, or drop transactional=True."
        )
