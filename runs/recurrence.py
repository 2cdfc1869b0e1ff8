"""When a schedule comes due: the instants of a cron expression in a time zone, or those of an interval."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from django.utils import timezone
from flujo.errors import InvalidInput

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=366)
CRON_FIELDS = 5
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Either `cron`, five fields read in `zone`, or `every`, counted from `anchor`.

    Where clocks are put forward, a time of day that is left out comes due right after the gap; where they are put back,
    one that comes twice is due the first time only. Expressions that begin with a star in the minutes or hours follow
    the clock on the wall, through a gap and through an hour that comes twice. An interval is elapsed time.
    """

    cron: str
    zone: str
    every: timedelta | None
    anchor: datetime

    def after(self, moment: datetime) -> datetime:
        """The first instant later than `moment`, in UTC. Raises `InvalidInput` for what cannot be understood."""
        if bool(self.cron) == (self.every is not None):
            raise InvalidInput("Give either a cron expression or an interval.", field="cron")
        return self._next_time(moment) if self.every is None else self._next_interval(self.every, moment)

    def upcoming(self, moment: datetime) -> list[datetime]:
        """The first three instants later than `moment`, on the clock of the time zone; an interval has the site's."""
        found = [moment]
        while len(found) <= SHOWN:
            found.append(self.after(found[-1]))
        zone = _zone(self.zone) if self.every is None else timezone.get_current_timezone()
        return [instant.astimezone(zone) for instant in found[1:]]

    def _next_interval(self, every: timedelta, moment: datetime) -> datetime:
        if not SHORTEST <= every <= LONGEST:
            raise InvalidInput("An interval is from one minute to 366 days long.", field="every")
        return self.anchor + every * ((moment - self.anchor) // every + 1)

    def _next_time(self, moment: datetime) -> datetime:
        if len(self.cron.split()) != CRON_FIELDS:
            raise InvalidInput("A cron expression has five fields: minute, hour, day, month, weekday.", field="cron")
        try:
            times = CronSim(self.cron, moment.astimezone(_zone(self.zone)))
            return next(later for time in times if (later := time.astimezone(UTC)) > moment)
        except CronSimError as error:
            raise InvalidInput(f"This is no cron expression: {error}.", field="cron") from error
        except StopIteration:
            raise InvalidInput("This cron expression never comes due.", field="cron") from None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"{name!r} is no time zone such as Europe/Berlin.", field="zone") from error
