"""A stored value as a page shows it: as a tree, cut short when it is large, or withheld."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flujo.redaction import Secrets

from runs.encryption import Sealed
from runs.secrets import shown_beginning, shown_text

LARGE = 256 * 1024
"""Characters of JSON above which a value is not drawn as a tree: the page would take seconds to lay out."""
CUT = 4_000


@dataclass(frozen=True, slots=True)
class Payload:
    """`kind` is `tree`, `large`, `hidden`, `sealed` (no key here opens it) or `absent`.

    `value` is a tree's, or what says which key is missing; `beginning` is set for a large one; `source` is the path of
    the step whose output it is, where that can be downloaded.
    """

    kind: str
    value: Any = None
    beginning: str = ""
    size: int = 0
    source: str = ""

    @property
    def tree(self) -> Any:
        """The value, where it is read and small enough to be drawn; else None."""
        return self.value if self.kind == "tree" else None


HIDDEN = Payload("hidden")
HIDDEN_ERROR = "Its message is hidden: errors quote the values they are about, which needs “view_context”."
ABSENT = Payload("absent")


def payload(
    text: str | None, *, shown: bool, secrets: Secrets, path: str | None = None, source: str | None = None
) -> Payload:
    """The payload of a canonical JSON text; `shown` says whether the reader may see values.

    What is marked secret is hidden from everybody; `path` is the node that gave the value. A large one is not parsed.
    """
    if text is None:
        return ABSENT
    if not shown:
        return HIDDEN
    if isinstance(text, Sealed):
        return Payload("sealed", value=text)
    if len(text) > LARGE:
        beginning = shown_beginning(text[:CUT], secrets, path)
        return Payload("large", beginning=beginning, size=len(text.encode()), source=source or "")
    text = shown_text(text, secrets, path)
    return Payload("tree", value=json.loads(text), size=len(text))
