"""The command that looks at the health of a store and says what to do."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

from flujo.clock import SystemClock
from flujo.commands.command import Call, Command, Exit
from flujo.encryption import KEY_FILE_VARIABLE
from flujo.errors import FlujoError
from flujo.inflight import every_head
from flujo.lease import is_held
from flujo.state.base import Check
from flujo.status import RunStatus, Wait
from flujo.verify import verify_run

AT_MOST = 1_000
"""Runs whose chains are walked: `verify` walks all of them."""


async def doctor(call: Call) -> int:
    """Look at everything; nothing is changed."""
    checks = [check async for check in _checks(call)]
    sick = [check for check in checks if not check.ok]
    if call.out.as_json:
        call.out.document({"healthy": not sick, "checks": [asdict(check) for check in checks]})
        return Exit.FOUND if sick else Exit.DONE
    call.out.table(("", "CHECK", "FOUND"), [("ok" if c.ok else "!!", c.name, c.found) for c in checks])
    for check in sick:
        call.out.line(f"{check.name}: {check.advice}")
    return Exit.FOUND if sick else Exit.DONE


async def _checks(call: Call) -> AsyncIterator[Check]:
    for check in await call.store.health():
        yield check
    for path in call.store.files():
        yield _permissions(path)
    yield _keys(await call.store.missing_keys())
    yield await _chains(call)
    async for check in _runs(call):
        yield check


def _permissions(path: Path) -> Check:
    mode, wanted = stat.S_IMODE(path.stat().st_mode), "700" if path.is_dir() else "600"
    closed = not path.parent.stat().st_mode & 0o011  # nobody else comes to what is in such a folder
    open_to_others = bool(mode & 0o077) and not closed
    advice = f"others on this machine may read it: chmod {wanted} {path}"
    return Check(f"permissions of {path.name}", not open_to_others, f"{mode:o}", advice)


def _keys(missing: dict[str, int]) -> Check:
    found = ", ".join(f"{count} values are sealed with the key {key_id}" for key_id, count in missing.items())
    advice = f"nobody can read these values: put the key back into the file that {KEY_FILE_VARIABLE} names"
    return Check("encryption keys", not missing, found or "none is missing", advice)


async def _chains(call: Call) -> Check:
    broken, run_ids = [], await call.store.run_ids()
    sample = run_ids[:: -(-len(run_ids) // AT_MOST) or 1]
    with call.out.progress(sample, "verifying") as each:
        for run_id in each:
            try:
                await verify_run(call.store, run_id)
            except FlujoError as error:
                broken.append(error.message)
    advice = " ".join([*broken[:3], "Restore these runs from a backup, and find out who changed the store."])
    looked = f"{len(sample)} runs" if len(sample) == len(run_ids) else f"{len(sample)} of {len(run_ids)} runs"
    return Check("audit chains", not broken, f"{looked}, {len(broken)} broken", advice)


async def _runs(call: Call) -> AsyncIterator[Check]:
    now, dead, held = SystemClock().now(), [], []
    async for head in every_head(call.store):
        if head.status is RunStatus.RUNNING and is_held(head, now) is None:
            dead.append(head.run_id)
        if head.status is RunStatus.PAUSED and head.wait is Wait.OPERATOR:
            held.append(head.run_id)
    gone = "their workers are gone: start a worker, or run them again; if a backup was put back, first: flujo restored"
    yield Check("dead leases", not dead, _some(dead), gone)
    advice = "they need attention: python -m flujo show tells why, unpark lets them go on"
    yield Check("parked runs", not held, _some(held), advice)


def _some(run_ids: list[str]) -> str:
    more = f" and {len(run_ids) - 3} more" if len(run_ids) > 3 else ""
    return ", ".join(run_ids[:3]) + more if run_ids else "none"


COMMANDS = (Command("doctor", "look at the health of a store, and say what to do", doctor),)
