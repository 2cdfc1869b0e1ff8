"""Make a store ready for a browser test: tables, the demo's people, a session for each; prints the session keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def main() -> None:
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from flujo_site import demo_accounts

    call_command("migrate", verbosity=0)
    demo_accounts.create()
    create_visitor()
    print(json.dumps({user.username: session_of(user) for user in User.objects.all()}))


def create_visitor() -> None:
    """Somebody whose rights no other test depends on."""
    from django.contrib.auth.models import Group, User

    from runs.models import PipelineGrant

    group = Group.objects.create(name="visitors")
    for verb in ("view", "view_context"):
        PipelineGrant.objects.create(group=group, pipeline="*", verb=verb)
    User.objects.create_user("visitor", password="visitor-demo").groups.add(group)


def session_of(user: User) -> str:
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


if __name__ == "__main__":
    django.setup()
    main()
