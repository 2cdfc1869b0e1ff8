"""The commands for runs whose code changed: unpark, migrate."""

from __future__ import annotations

from argparse import ArgumentParser

from flujo import transitions
from flujo.clock import SystemClock
from flujo.commands.command import Call, Command, Exit, NotThere, acts, facts, names_registry, names_run
from flujo.commands.runs import required
from flujo.deploy import Course, judge
from flujo.migration import MigrationPlan
from flujo.planning import plan


def _unpark_options(parser: ArgumentParser) -> None:
    names_run(parser)
    names_registry(parser)
    acts(parser)


async def unpark(call: Call) -> int:
    """Queue a parked run whose code is registered again."""
    document = await required(call, call.given.run)
    head = document.head
    assert head is not None  # `required` gives no document without one
    verdict = judge(call.needs_registry(), head)
    if verdict.course is not Course.GO_ON and transitions.is_parked(head):
        raise verdict.error
    given = call.given
    free = transitions.unpark(actor=given.actor, reason=given.reason, now=SystemClock().now(), facts=facts())
    batch = await call.store.transact(head.run_id, free)
    return call.done(batch.kept, f"Run {head.run_id} is queued again.")


def _migrate_options(parser: ArgumentParser) -> None:
    names_run(parser)
    parser.add_argument("--version", required=True, help="the version to move the run to")
    parser.add_argument("--dry-run", action="store_true", help="show what would happen, write nothing")
    names_registry(parser)
    acts(parser)


async def migrate(call: Call) -> int:
    """Move a run to another version by the registered migration."""
    document = await required(call, call.given.run)
    head, version = document.head, call.given.version
    assert head is not None  # `required` gives no document without one
    known = call.needs_registry().migrations(head.pipeline, head.version)
    found = next(((target, function) for target, function in known if target.version == version), None)
    if found is None:
        raise NotThere(f"No migration of {head.pipeline} from {head.version} to {version} is registered.")
    planned = plan(document, *found)
    if call.given.dry_run:
        return _show(call, planned)
    written = transitions.migrate(planned, actor=call.given.actor, now=SystemClock().now(), facts=facts())
    batch = await call.store.transact(head.run_id, written)
    return call.done(batch.kept, f"Run {head.run_id} is now {batch.kept.status.value} under {version}.")


def _show(call: Call, planned: MigrationPlan) -> int:
    plain = planned.to_plain()
    if call.out.as_json:
        call.out.document({"dry_run": True, **plain})
        return Exit.DONE
    call.out.line(f"Run {planned.run_id} would move from {planned.before[0]} to {planned.after[0]}:")
    told = [
        ("goes on before", plain["next_step"] or "its end"),
        ("renamed", ", ".join(f"{old} to {new}" for old, new in plain["renamed"].items())),
        ("passed over", ", ".join(plain["given"])),
        ("asked again", ", ".join(plain["asked_again"])),
        ("new steps", ", ".join(plain["new_steps"])),
        ("never run", ", ".join(plain["never_run"])),
        ("context", ", ".join(sorted(field for part in plain["context_changes"].values() for field in part))),
    ]
    call.out.facts(told)
    return Exit.DONE


COMMANDS = (
    Command("unpark", "let a parked run go on, once its code is registered again", unpark, _unpark_options),
    Command("migrate", "move a run to another version by its registered migration", migrate, _migrate_options),
)
