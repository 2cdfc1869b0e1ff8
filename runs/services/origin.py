"""Where an operator's action came from, as the audit records it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class Origin:
    """The channel (`ui`, `api`, `bulk`, `admin`, `cli`, `system`), address, browser and request of an action."""

    channel: str
    ip: str = ""
    user_agent: str = ""
    request_id: str = ""

    def facts(self) -> dict[str, str]:
        """The origin as an audit event's data."""
        return asdict(self)


def origin_of(request: HttpRequest, channel: str = "ui") -> Origin:
    """The origin of a web request; the address is the peer's, never a header that a client can write."""
    return Origin(
        channel=channel,
        ip=str(request.META.get("REMOTE_ADDR") or ""),
        user_agent=request.headers.get("User-Agent", "")[:200],
        request_id=uuid4().hex[:16],
    )
