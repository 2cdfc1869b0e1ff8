"""A file given with a form: its bytes in the data folder under their hash, its reference in the answer."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core import signing
from django.utils import timezone
from django.utils.text import get_valid_filename
from flujo.errors import FlujoError
from pydantic import BaseModel, ConfigDict, Field

from runs import site_settings
from runs.models import Upload

SCHEMA_FORMAT = "flujo-upload"
"""How a stored JSON Schema says that a file is asked for."""
REFERENCE_LASTS = 24 * 60 * 60
_SALT = "runs.uploads.reference"

User = AbstractBaseUser | AnonymousUser


class UploadTooLarge(FlujoError):
    """The file is larger than an upload may be."""

    code = "upload_too_large"


class UploadNotFound(FlujoError):
    """The uploaded file is no longer in the data folder. Restore the folder from its backup, or upload it again."""

    code = "upload_not_found"


class GivenFile(Protocol):
    """What a browser sent: the part of Django's uploaded file that is used here."""

    @property
    def name(self) -> str | None: ...

    def chunks(self) -> Iterable[bytes]: ...


class UploadedFile(BaseModel):
    """The reference to an uploaded file, as a step's input holds it; the bytes are read through `open()`."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"format": SCHEMA_FORMAT})

    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bytes, in hexadecimal.")
    name: str = Field(min_length=1, max_length=255, description="What the file was called where it came from.")
    size: int = Field(ge=0, description="Length in bytes.")

    @property
    def path(self) -> Path:
        """Where the bytes lie. The digest's pattern keeps it inside the data folder."""
        return _folder() / self.digest[:2] / self.digest

    def open(self) -> BinaryIO:
        """The bytes, opened for reading. Raises `UploadNotFound` when they are gone."""
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            raise UploadNotFound(f"The uploaded file {self.name} is no longer in the data folder.") from None


def limit() -> int:
    """The largest upload allowed, in bytes: the setting `FLUJO_MAX_UPLOAD_BYTES`."""
    return site_settings.max_upload_bytes()


def store_upload(given: GivenFile, owner: User | None) -> UploadedFile:
    """Keep a file: hashed, written once whoever sends it, durable before the reference exists.

    Raises `UploadTooLarge` while reading, whatever length the browser claimed.
    """
    folder = _folder()
    _private(folder)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="incoming-", delete=False) as target:
        incoming = Path(target.name)  # mode 0600, as mkstemp makes it
        try:
            digest, size = _copy(given, target)
            target.flush()
            os.fsync(target.fileno())
            reference = UploadedFile(digest=digest, name=_name(given), size=size)
            _keep(incoming, reference.path)
        finally:
            incoming.unlink(missing_ok=True)
    Upload.objects.create(
        digest=reference.digest,
        name=reference.name,
        size=reference.size,
        owner_id=owner.pk if owner is not None else None,
        created_at=timezone.now(),
    )
    return reference


def sign(reference: UploadedFile, owner: User | None) -> str:
    """A text that lets this user, and nobody else, hand the reference in again."""
    return signing.dumps({**reference.model_dump(), "owner": _identity(owner)}, salt=_SALT)


def unsign(text: str, owner: User | None) -> UploadedFile | None:
    """The reference in a signed text; `None` when it is forged, too old, someone else's, or its file is gone."""
    try:
        held: dict[str, Any] = signing.loads(text, salt=_SALT, max_age=REFERENCE_LASTS)
    except signing.BadSignature:
        return None
    if held.pop("owner") != _identity(owner):
        return None
    reference = UploadedFile.model_validate(held)
    return reference if reference.path.is_file() else None


def _identity(owner: User | None) -> str:
    return "" if owner is None or owner.pk is None else str(owner.pk)


def _folder() -> Path:
    return site_settings.data_folder() / "uploads"


def _name(given: GivenFile) -> str:
    """The given name without folders; names keep their ending when they are cut."""
    sent = "".join(letter for letter in given.name or "" if letter.isprintable())
    name = Path(sent.replace("\\", "/")).name
    if name in ("", ".."):
        return "file"
    if len(name) > 255:
        ending = get_valid_filename(Path(name).suffix[:20] or "_")
        name = name[: 255 - len(ending)] + ending
    return name


def _copy(given: GivenFile, target: Any) -> tuple[str, int]:
    hashed, size, most = hashlib.sha256(), 0, limit()
    for chunk in given.chunks():
        size += len(chunk)
        if size > most:
            raise UploadTooLarge(f"The file is larger than {_words(most)}, the most an upload may have.", limit=most)
        hashed.update(chunk)
        target.write(chunk)
    return hashed.hexdigest(), size


def _words(size: int) -> str:
    return f"{size / 1024 / 1024:g} MiB" if size >= 1024 * 1024 else f"{size:,} bytes"


def _keep(incoming: Path, path: Path) -> None:
    """Give the bytes their name. The same bytes already there are left as they are."""
    _private(path.parent)
    if not path.exists():
        incoming.rename(path)
        _sync(path.parent)


def _private(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
