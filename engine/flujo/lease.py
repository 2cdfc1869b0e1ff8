"""The holder of a lease: which process it is, and whether it is surely gone."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from flujo.records import RunHead
from flujo.status import RunStatus

DEFAULT_LEASE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, named so that another one on the same host can tell whether it still lives.

    A pid alone is reused, and means another process in another container: boot, pid namespace, pid and start time
    together identify one process for good, and `nonce` one life of the engine within it.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: str
    nonce: str

    def to_json(self) -> str:
        return _json_of(self)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


_ITSELF: dict[int, Holder] = {}


def this_process() -> Holder:
    """The holder that this process is."""
    pid = os.getpid()
    if pid not in _ITSELF:  # a fork is a process of its own
        _ITSELF.clear()
        stat = _stat_of(pid)
        started = stat.started if stat is not None else ""
        _ITSELF[pid] = Holder(socket.gethostname(), _boot(), _namespace(), pid, started, uuid4().hex)
    return _ITSELF[pid]


@lru_cache(maxsize=4)
def _json_of(holder: Holder) -> str:
    return json.dumps(asdict(holder), sort_keys=True)


def parse_holder(text: str | None) -> Holder | None:
    """The holder stored with a lease."""
    return Holder(**json.loads(text)) if text else None


def is_dead(holder: Holder) -> bool:
    """Whether `holder` was a process of this host, boot and pid namespace and is gone. False when unsure.

    The kernel tells of every process whether it is there, but may hide the rest (`hidepid`): a process that is there
    and whose start time cannot be read may well be the holder.
    """
    if not holder.boot or not holder.namespace or (holder.boot, holder.namespace) != (_boot(), _namespace()):
        return False
    if not _exists(holder.pid):
        return True
    stat = _stat_of(holder.pid)
    if stat is None or not holder.started:
        return False
    return stat.gone or stat.started != holder.started


def is_held(head: RunHead, now: datetime) -> Holder | None:
    """The live holder of a running run, or None when its lease has expired or its process is gone."""
    holder = parse_holder(head.holder)
    if head.status is not RunStatus.RUNNING or holder is None or head.lease_expires_at is None:
        return None
    if head.lease_expires_at <= now or is_dead(holder):
        return None
    return holder


@cache
def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's, or a number that is none
    return True


class _Stat(NamedTuple):
    """What the kernel says of a process: its start in clock ticks since boot, and whether it has ended (a zombie)."""

    started: str
    gone: bool


def _stat_of(pid: int) -> _Stat | None:
    """None when there is no such process, or we may not see it."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return _Stat(fields[18], state in "ZX")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
