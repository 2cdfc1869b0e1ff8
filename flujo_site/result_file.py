"""The file a run leaves in the data folder: written whole or not at all, with its hash."""

import os
import threading
from hashlib import sha256
from pathlib import Path

from django.conf import settings

from flujo_site.record import Record


class ResultFile(Record):
    """A written file: its path under the data folder, its size in bytes, its hash."""

    path: str
    size: int
    sha256: str


def write(name: str, text: str) -> ResultFile:
    """Write `text` to `name` under the data folder; the same text again leaves the same file."""
    content = text.encode()
    target = Path(settings.FLUJO_DATA_DIR) / name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return ResultFile(path=name, size=len(content), sha256=sha256(content).hexdigest())
