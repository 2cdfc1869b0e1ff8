"""Make a store ready for a browser test: tables, the demo's people, a session for each; prints the session keys."""

from __future__ import annotations

import json

import django

django.setup()

from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY  # noqa: E402  # needs Django set up
from django.contrib.auth.models import Group, User  # noqa: E402  # the same
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402  # the same
from django.core.management import call_command  # noqa: E402  # the same

from flujo_site import demo_accounts  # noqa: E402  # the same
from runs.models import PipelineGrant  # noqa: E402  # the same


def session_of(user: User) -> str:
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


def create_visitor() -> None:
    """Somebody whose rights no other test depends on."""
    group = Group.objects.create(name="visitors")
    PipelineGrant.objects.create(group=group, pipeline="*", verb="view")
    PipelineGrant.objects.create(group=group, pipeline="*", verb="view_context")
    User.objects.create_user("visitor", password="visitor-demo").groups.add(group)


call_command("migrate", verbosity=0)
demo_accounts.create()
create_visitor()
print(json.dumps({user.username: session_of(user) for user in User.objects.all()}))
