"""The command that says, before a deploy, which unfinished runs the new code would not go on with."""

from __future__ import annotations

from flujo.commands.command import Call, Command, Exit, names_registry
from flujo.commands.output import Output
from flujo.inflight import Finding, check_inflight


async def check(call: Call) -> int:
    """Compare the shape each run was started with to the registered one."""
    unfinished, found = await check_inflight(call.store, call.needs_registry())
    return report(call.out, unfinished, found)


def report(out: Output, unfinished: int, found: list[Finding]) -> int:
    """Print the findings; 1 when there are some."""
    if out.as_json:
        out.document({"unfinished": unfinished, "findings": [finding.to_plain() for finding in found]})
        return Exit.FOUND if found else Exit.DONE
    if not found:
        out.line(f"All {unfinished} unfinished runs can go on with this code.")
        return Exit.DONE
    out.line(f"{len(found)} of {unfinished} unfinished runs cannot go on with this code:")
    for finding in found:
        _print(out, finding)
    return Exit.FOUND


def _print(out: Output, finding: Finding) -> None:
    head, there = finding.head, finding.registered
    out.line("")
    out.line(f"{head.run_id}: {head.pipeline} {head.version}, {head.status.value} before {head.step_name or 'its end'}")
    out.line(f"  {finding.problem}")
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
