"""What the console asks of the settings of the project it is installed in, with what holds where they say nothing."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from flujo.state.artefacts import ARTEFACT_BYTES, checked_threshold

MAX_UPLOAD_BYTES = 10 * 1024 * 1024


def data_folder() -> Path:
    """`FLUJO_DATA_DIR`: where uploads are kept. It has no default, since it must be backed up and private."""
    folder = getattr(settings, "FLUJO_DATA_DIR", None)
    if folder is None:
        raise ImproperlyConfigured("Set FLUJO_DATA_DIR to a folder that only the site's user can read.")
    return Path(folder)


def max_upload_bytes() -> int:
    """`FLUJO_MAX_UPLOAD_BYTES`: the largest file that a start form takes."""
    return int(getattr(settings, "FLUJO_MAX_UPLOAD_BYTES", MAX_UPLOAD_BYTES))


def artefact_bytes() -> int:
    """`FLUJO_ARTEFACT_BYTES`: the bytes above which a value is stored once for all runs. Raises `ValueError`."""
    return checked_threshold(getattr(settings, "FLUJO_ARTEFACT_BYTES", ARTEFACT_BYTES))


def sign_out() -> str:
    """`FLUJO_SIGN_OUT_URL`: the address, or its name, that signs out by a POST; Django's admin has one."""
    return str(getattr(settings, "FLUJO_SIGN_OUT_URL", "admin:logout"))


def demo() -> bool:
    """`FLUJO_DEMO`: whether the accounts with public passwords exist."""
    return bool(getattr(settings, "FLUJO_DEMO", False))
