"""The fields for dates and times. A date and time is typed in the user's zone and travels with its offset."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any, ClassVar

from django.utils import timezone

from runs.forms.field import Leaf
from runs.forms.refused import Refused
from runs.forms.spec import MISSING


class Date(Leaf):
    """A day."""

    template = "forms/_text.html"
    ask = "Enter a date, such as 2026-01-31."
    input_type: ClassVar[str] = "date"
    multiline = False

    def parse(self, raw: str) -> str:
        return str(self.moment(raw).isoformat())

    def moment(self, raw: str) -> Any:
        """The typed text as a date; raises `Refused`."""
        try:
            return date.fromisoformat(raw.strip())
        except ValueError:
            raise Refused(self.ask) from None

    def unchanged(self, raw: str) -> bool:
        shown = self.text_of(self.initial)
        try:
            return raw == shown or (shown != "" and bool(self.moment(raw) == self.moment(shown)))
        except Refused:
            return False

    def attributes(self) -> dict[str, Any]:
        step = None if self.input_type == "date" else "any"
        return {
            **super().attributes(),
            "type": self.input_type,
            "step": step,
            "autocomplete": "off",
            "placeholder": None,
        }


class DateTime(Date):
    """A day and time in the user's zone, which the form names; stored values keep their own offset while untouched."""

    ask = "Enter a date and time, such as 2026-01-31 14:30."
    input_type = "datetime-local"

    def moment(self, raw: str) -> datetime:
        try:
            found = datetime.fromisoformat(raw.strip())
        except ValueError:
            raise Refused(self.ask) from None
        return found.replace(microsecond=found.microsecond // 1000 * 1000)  # what the control can show

    def parse(self, raw: str) -> str:
        found = self.moment(raw)
        if found.tzinfo is not None or self.naive:
            return found.isoformat()
        zone = timezone.get_current_timezone()
        aware = found.replace(tzinfo=zone)
        try:
            back = aware.astimezone(UTC).astimezone(zone)
        except OverflowError:
            raise Refused("Enter a date and time between the years 1 and 9999.") from None
        if back.replace(tzinfo=None) != found:
            raise Refused(f"This time does not exist in {self.zone}: the clocks are set forward over it.")
        return aware.isoformat()

    @property
    def naive(self) -> bool:
        """Whether the stored value has no zone, so that none is added to its successor."""
        stored = _stored(self.initial)
        return stored is not None and stored.tzinfo is None

    @property
    def zone(self) -> str:
        return timezone.get_current_timezone_name()

    def text_of(self, value: Any) -> str:
        stored = _stored(value)
        if stored is None:
            return super().text_of(value)
        if stored.tzinfo is not None:
            try:
                stored = stored.astimezone(timezone.get_current_timezone())
            except OverflowError:
                return super().text_of(value)
        return stored.replace(tzinfo=None).isoformat(timespec="milliseconds" if stored.microsecond else "seconds")

    @property
    def help_lines(self) -> list[str]:
        return [*super().help_lines, "Without a time zone." if self.naive else f"Time zone: {self.zone}."]


class Time(Date):
    """A time of day."""

    ask = "Enter a time, such as 14:30."
    input_type = "time"

    def moment(self, raw: str) -> time:
        try:
            found = time.fromisoformat(raw.strip())
        except ValueError:
            raise Refused(self.ask) from None
        return found.replace(microsecond=found.microsecond // 1000 * 1000)

    def parse(self, raw: str) -> str:
        found = self.moment(raw)
        stored = _stored_time(self.initial)
        return found.replace(tzinfo=found.tzinfo or (stored.tzinfo if stored else None)).isoformat()

    def text_of(self, value: Any) -> str:
        stored = _stored_time(value)
        if stored is None:
            return super().text_of(value)
        return stored.replace(tzinfo=None).isoformat(timespec="milliseconds" if stored.microsecond else "seconds")


def _stored(value: Any) -> datetime | None:
    try:
        return None if value is MISSING else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None


def _stored_time(value: Any) -> time | None:
    try:
        return None if value is MISSING else time.fromisoformat(value)
    except (TypeError, ValueError):
        return None
