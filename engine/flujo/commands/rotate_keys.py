"""The command that seals every stored value anew, after a new key was put before the old ones."""

from __future__ import annotations

from dataclasses import asdict

from flujo.commands.command import Call, Command, Exit
from flujo.commands.output import Output
from flujo.state.rotation import Rotation


async def rotate_keys(call: Call) -> int:
    """Seal the values of the store with the first key."""
    return report(call.out, await call.store.rotate_keys())


def report(out: Output, done: Rotation) -> int:
    """Print what came of it; 1 when the other keys are still needed."""
    if out.as_json:
        out.document({"complete": done.complete, **asdict(done)})
        return Exit.DONE if done.complete else Exit.FOUND
    out.line(f"{done.resealed} values were sealed with the first key.")
    if done.left:
        out.line(f"{done.left} were written with another key meanwhile: restart what still writes with it, and repeat.")
    if done.failed:
        out.line(f"{done.failed} could not be opened, and were left as they are:")
    for problem in done.problems:
        out.line(f"  {problem}")
    if done.complete:
        out.line("The first key opens every value: the others may go.")
    return Exit.DONE if done.complete else Exit.FOUND


COMMANDS = (Command("rotate-keys", "seal every stored value with the first encryption key", rotate_keys),)
