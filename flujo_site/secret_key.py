"""The site's secret key: from the environment, else one generated on the first start and kept beside the data."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

LENGTH = 64


def secret_key(given: str, folder: Path) -> str:
    """Return the key `given`, else the one in `folder`, made there readable by its owner alone if there is none.

    Several processes may start at once on an empty folder: a hard link either puts a complete file in place or fails.
    """
    if given:
        return given
    file = folder / "secret_key"
    if not file.exists():
        draft = folder / f".secret_key.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as target:
            target.write(secrets.token_urlsafe(LENGTH))
            target.flush()
            os.fsync(target.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text().strip()
