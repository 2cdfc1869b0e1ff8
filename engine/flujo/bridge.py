"""The blocking face of the async core."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from flujo.errors import RunningLoop

T = TypeVar("T")


def wait_for(work: Coroutine[Any, Any, T], *, twin: str) -> T:
    """Run `work` to its end in a loop of its own; `twin` names what to await instead inside a running loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    work.close()
    raise RunningLoop(f"An event loop is running here. Await {twin} instead.")
