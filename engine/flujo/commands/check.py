"""The command that says, before a deploy, which unfinished runs the new code would not go on with."""

from __future__ import annotations

from flujo.commands.command import Call, Command, Exit, names_registry
from flujo.commands.output import Output
from flujo.deploy import Course
from flujo.inflight import Finding, check_inflight


async def check(call: Call) -> int:
    """Compare the shape each run was started with to the registered one."""
    unfinished, found = await check_inflight(call.store, call.needs_registry())
    return report(call.out, unfinished, found)


def report(out: Output, unfinished: int, found: list[Finding]) -> int:
    """Print the findings; 1 when some run would not go on, be it after a migration."""
    held = [finding for finding in found if finding.needs_attention]
    if out.as_json:
        out.document({"unfinished": unfinished, "findings": [finding.to_plain() for finding in found]})
        return Exit.FOUND if held else Exit.DONE
    if held:
        out.line(f"{len(held)} of {unfinished} unfinished runs cannot go on with this code:")
    else:
        out.line(f"All {unfinished} unfinished runs can go on with this code.")
    for finding in [*held, *(finding for finding in found if not finding.needs_attention)]:
        _print(out, finding)
    return Exit.FOUND if held else Exit.DONE


COURSES = {
    Course.PARK: "it would be parked",
    Course.LEAVE: "it would be left to a process that has its version",
    Course.MIGRATE: "it would be migrated",
}


def _print(out: Output, finding: Finding) -> None:
    head, there = finding.head, finding.registered
    out.line("")
    out.line(f"{head.run_id}: {head.pipeline} {head.version}, {head.status.value} before {head.step_name or 'its end'}")
    out.line(f"  {finding.problem}")
    out.line(f"  {COURSES[finding.verdict.course]}")
    out.line(f"  fingerprint {head.fingerprint[:12]}, registered {there.fingerprint[:12] if there else 'nothing'}")
    for difference in finding.differences:
        out.line(f"  - {difference.sentence}{'' if difference.ahead else ' (already passed)'}")


COMMANDS = (
    Command(
        "check",
        "list the unfinished runs whose steps this code has not, or has in another order",
        check,
        names_registry,
    ),
)
