"""The demo's accounts: three groups with their grants, a person in each, and an administrator."""

from django.contrib.auth.models import Group, Permission, User

from runs.models import PipelineGrant

EVERY_PIPELINE = "*"
GRANTS = {
    "operators": ("view", "view_context", "start", "decide", "cancel", "retry", "fork", "signal", "schedule"),
    "finance": ("view", "view_context", "decide"),
    "auditors": ("view", "export"),
}
MEMBERS = {"operator": "operators", "approver": "finance", "auditor": "auditors"}
ADMINISTRATOR = "admin"
DUTIES = {
    "operator": "starts runs, cancels, retries and forks them, decides what is for anyone",
    "approver": "decides for finance: the invoice reviews",
    "auditor": "reads and exports the audit",
    "admin": "may do everything, administration included",
}


def password_of(name: str) -> str:
    """The password of a demo account."""
    return f"{name}-demo"


def create() -> None:
    """Create what is missing; accounts that exist keep their password and their groups."""
    groups = {name: _group(name, verbs) for name, verbs in GRANTS.items()}
    groups["auditors"].permissions.add(Permission.objects.get(content_type__app_label="flujo_runs", codename="audit"))
    for name, group in MEMBERS.items():
        if not User.objects.filter(username=name).exists():
            User.objects.create_user(name, password=password_of(name)).groups.add(groups[group])
    if not User.objects.filter(username=ADMINISTRATOR).exists():
        User.objects.create_superuser(ADMINISTRATOR, password=password_of(ADMINISTRATOR))


def _group(name: str, verbs: tuple[str, ...]) -> Group:
    group, created = Group.objects.get_or_create(name=name)
    if created:  # once it exists, what a group may do is the administrator's to change
        grants = [PipelineGrant(group=group, pipeline=EVERY_PIPELINE, verb=verb) for verb in verbs]
        PipelineGrant.objects.bulk_create(grants)
    return group
