"""What the audit learns from Django's signals: sign-ins and changes of who may do what."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.dispatch import receiver
from django.http import HttpRequest

from runs.models import PipelineGrant
from runs.services.origin import Origin, origin_of
from runs.services.site_audit import acting_now, record

User: Any = get_user_model()
RIGHTS = ("is_active", "is_staff", "is_superuser")
MEMBERSHIPS = {
    User.groups.through: "groups",
    User.user_permissions.through: "permissions",
    Group.permissions.through: "permissions",
}


@receiver(user_logged_in, dispatch_uid="flujo-signed-in")
def signed_in(*, request: HttpRequest | None, user: Any, **_: object) -> None:
    record("user.signed_in", actor=user.get_username(), origin=_origin(request))


@receiver(user_logged_out, dispatch_uid="flujo-signed-out")
def signed_out(*, request: HttpRequest | None, user: Any, **_: object) -> None:
    if user is not None:
        record("user.signed_out", actor=user.get_username(), origin=_origin(request))


@receiver(user_login_failed, dispatch_uid="flujo-sign-in-failed")
def sign_in_failed(*, credentials: dict[str, Any], request: HttpRequest | None = None, **_: object) -> None:
    """The name that was tried is data, not the actor: nobody has shown to be that person."""
    tried = str(credentials.get("username") or "")[:150]
    record("user.sign_in_failed", actor="", origin=_origin(request), username=tried)


@receiver([post_save, post_delete], sender=PipelineGrant, dispatch_uid="flujo-grant-changed")
def grant_changed(*, instance: PipelineGrant, signal: object, created: bool = True, **_: object) -> None:
    change = "revoked" if signal is post_delete else "granted" if created else "changed"
    _permission_changed(change, subject=f"group {instance.group}", verb=instance.verb, pipeline=instance.pipeline)


def membership_changed(
    *,
    sender: type[Model],
    instance: Any,
    action: str,
    reverse: bool,
    pk_set: set[int] | None,
    model: Any,
    **_: object,
) -> None:
    """One event per change of a user's groups or of a user's or group's permissions, naming both sides."""
    words = {"post_add": "added", "post_remove": "removed", "pre_clear": "cleared"}
    if action not in words or not (pk_set or action == "pre_clear"):
        return
    chosen = model.objects.filter(pk__in=pk_set) if pk_set else _current(sender, instance, model, reverse=reverse)
    names = sorted(str(item) for item in chosen)
    _permission_changed(
        words[action], subject=_named(instance), **{"members" if reverse else MEMBERSHIPS[sender]: names}
    )


for through in MEMBERSHIPS:
    m2m_changed.connect(membership_changed, sender=through, dispatch_uid=f"flujo-{through.__name__}")


@receiver(pre_save, sender=User, dispatch_uid="flujo-rights-before")
def rights_before(*, instance: Any, update_fields: frozenset[str] | None = None, **_: object) -> None:
    """Note the stored rights, which `rights_changed` compares; a sign-in's own save costs no query."""
    if update_fields is not None and not set(RIGHTS) & update_fields:
        instance.rights_before = None
        return
    stored = User.objects.filter(pk=instance.pk).values(*RIGHTS).first() if instance.pk else None
    instance.rights_before = stored or {"is_active": True, "is_staff": False, "is_superuser": False}


@receiver(post_save, sender=User, dispatch_uid="flujo-rights-changed")
def rights_changed(*, instance: Any, created: bool, **_: object) -> None:
    """Being active, staff or superuser decides more than any grant."""
    before = getattr(instance, "rights_before", None) or {}
    changed = {name: getattr(instance, name) for name, value in before.items() if getattr(instance, name) != value}
    if changed:
        _permission_changed("created" if created else "changed", subject=_named(instance), **changed)


@receiver(post_delete, sender=User, dispatch_uid="flujo-user-deleted")
@receiver(post_delete, sender=Group, dispatch_uid="flujo-group-deleted")
def holder_deleted(*, instance: Any, **_: object) -> None:
    """A deletion takes memberships and permissions along without a signal for each."""
    _permission_changed("deleted", subject=_named(instance))


def _permission_changed(change: str, **facts: Any) -> None:
    actor, origin = acting_now()
    record("permission.changed", actor=actor, origin=origin, change=change, **facts)


def _current(sender: type[Model], instance: Any, model: Any, *, reverse: bool) -> Any:
    """What a `clear()` is about to remove."""
    if reverse:
        return instance.user_set.all() if model is User else instance.group_set.all()
    return getattr(instance, "groups" if sender is User.groups.through else _permissions(instance)).all()


def _permissions(instance: Any) -> str:
    return "permissions" if isinstance(instance, Group) else "user_permissions"


def _named(instance: Any) -> str:
    return f"{type(instance).__name__.lower()} {instance}"


def _origin(request: HttpRequest | None) -> Origin | None:
    return origin_of(request) if request is not None else None
