"""An error as the store keeps it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from flujo.canonical import storable
from flujo.errors import FlujoError
from flujo.transitions import StepError

_ENGINE = f"{Path(__file__).parent}/"


def described(error: Exception, hide: Callable[[str], str] = str) -> StepError:
    """The type, message and traceback of an error; `hide` takes out what must not be kept."""
    message = hide(error.message if isinstance(error, FlujoError) else _message(error))
    lines = hide("".join(traceback.format_exception(type(error), error, _from_the_step_on(error))))
    return StepError(storable(type(error).__name__)[:200], storable(message)[:2_000], storable(lines)[-20_000:])


def _from_the_step_on(error: Exception) -> TracebackType | None:
    """The traceback without the engine's frames that led to the step; whole where the engine itself raised."""
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename.startswith(_ENGINE):
        at = at.tb_next
    return at or error.__traceback__


def _message(error: Exception) -> str:
    try:
        return str(error)
    except Exception as broken:  # the seam to user code: an error may fail to say what it is
        return f"(its message failed with {type(broken).__name__})"
