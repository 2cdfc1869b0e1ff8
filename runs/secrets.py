"""What is marked secret in the values of a run: by the code that started it, and by the code that is registered now."""

from __future__ import annotations

import json
from typing import Any

from flujo.errors import PipelineNotFound
from flujo.redaction import HIDDEN, Secrets

from runs.encryption import Sealed
from runs.models import Run
from runs.registry import registry


def secrets_of(run: Run) -> Secrets:
    """What no page and no export shows of a run."""
    return Secrets.of_text(run.secrets) | registered_secrets(run.pipeline, run.version)


def registered_secrets(pipeline: str, version: str | None = None) -> Secrets:
    """What the registered pipeline marks; nothing when this process has none of that name and version."""
    try:
        return registry.get(pipeline, version).secrets
    except PipelineNotFound:
        return Secrets()


def shown_value(text: str, secrets: Secrets, path: str | None = None) -> Any:
    """A stored value as it may be shown: that of the node at `path`, without what is secret; or that it is `Sealed`."""
    return text if isinstance(text, Sealed) else secrets.hide(json.loads(text), path)


def shown_text(text: str, secrets: Secrets, path: str | None = None) -> str:
    """The same as JSON; `Sealed` is as it is."""
    if isinstance(text, Sealed) or secrets == Secrets():
        return text
    return json.dumps(shown_value(text, secrets, path), ensure_ascii=False)


def shown_beginning(text: str, secrets: Secrets, path: str | None) -> str:
    """The beginning of stored JSON as it may be shown: it ends where something secret would begin."""
    if secrets.hides(path):
        return HIDDEN if text else ""
    found = [(text.find(f'"{key}":'), len(key) + 3) for key in secrets.keys]
    first = min(((at, length) for at, length in found if at >= 0), default=None)
    return text if first is None else f"{text[: sum(first)]}{HIDDEN}…"
