"""Who a session belongs to, read without touching it."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, load_backend
from django.contrib.auth.models import User
from django.utils.crypto import constant_time_compare


def user_of(session_key: str | None) -> User | None:
    """The active user whose session this is now, or None when it ended, expired or was never one.

    Django's own `get_user` renews or flushes the session on the way, which a socket must not do: it cannot hand the
    browser a new cookie.
    """
    if not session_key:
        return None
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user_id, path = session.get(SESSION_KEY), session.get(BACKEND_SESSION_KEY)
    if user_id is None or path not in settings.AUTHENTICATION_BACKENDS:
        return None
    user = load_backend(path).get_user(user_id)
    if not isinstance(user, User) or not user.is_active:
        return None
    known = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    found = session.get(HASH_SESSION_KEY, "")
    return user if any(constant_time_compare(found, good) for good in known) else None
