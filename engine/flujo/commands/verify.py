"""The command that walks the audit chains."""

from __future__ import annotations

from flujo.commands.command import Call, Command, Exit
from flujo.errors import AuditChainBroken
from flujo.verify import verify_store


async def verify(call: Call) -> int:
    """Verify every run, deleted ones included."""
    try:
        runs, events = await verify_store(call.store)
    except AuditChainBroken as error:
        if not call.out.as_json:
            raise
        call.out.document({"intact": False, "problem": error.message, **error.details})
        return Exit.FOUND
    if call.out.as_json:
        call.out.document({"intact": True, "runs": runs, "events": events})
    else:
        call.out.line(f"The audit chain is intact: {events} events of {runs} runs.")
    return Exit.DONE


COMMANDS = (Command("verify", "check the audit chain of every run", verify),)
