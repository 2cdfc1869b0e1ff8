"""`manage.py demo` fills a new site once, in demo mode only."""

from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from flujo.status import Outcome, RunStatus, TaskStatus, Wait
from pytest_django import DjangoAssertNumQueries, Settings

from flujo_site import demo_accounts
from flujo_site.demo_runs import RUNS
from flujo_site.models import LedgerEntry
from runs import access
from runs.models import AuditEvent, HumanTask, PipelineGrant, Run, Schedule, Vote
from tests.demo.test_release import commit, git

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(autouse=True)
def demo_mode(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    commit(folder, "Start")
    settings.FLUJO_DEMO = True
    settings.FLUJO_DATA_DIR = tmp_path
    settings.FLUJO_REPOSITORIES = [folder]


def demo() -> str:
    out = StringIO()
    call_command("demo", stdout=out)
    return out.getvalue()


def test_demo_outside_of_demo_mode_is_refused_and_makes_nothing(settings: Settings) -> None:
    settings.FLUJO_DEMO = False
    with pytest.raises(CommandError, match="only in demo mode"):
        demo()
    assert not User.objects.exists()


def test_demo_leaves_open_human_tasks_and_runs_in_every_state_to_look_at() -> None:
    demo()
    states = dict(Run.objects.values_list("pk", "status"))
    assert set(states) == {run.run_id for run in RUNS}
    assert {RunStatus(state) for state in states.values()} == {
        RunStatus.COMPLETED,
        RunStatus.PAUSED,
        RunStatus.FAILED,
        RunStatus.CANCELLED,
    }
    assert Run.objects.get(pk="demo-statement").wait == Wait.RETRY
    assert list(Vote.objects.values_list("run", "actor")) == [("demo-release", "approver")]
    assert Run.objects.get(pk="demo-invoices-low-limit").outcome == Outcome.REJECTED
    assert set(HumanTask.objects.filter(status=TaskStatus.OPEN).values_list("run_id", "name")) == {
        ("demo-invoices-q3", "review"),
        ("demo-release", "go"),
        ("demo-export-first-question", "privacy_review"),
        ("demo-export-second-question", "hand_over"),
    }
    assert set(LedgerEntry.objects.values_list("run_id", flat=True)) == {"demo-invoices-clean", "demo-invoices-q2"}


def test_demo_starts_an_intake_every_night_unless_somebody_deleted_that() -> None:
    demo()
    schedule = Schedule.objects.get()
    assert (schedule.pipeline, schedule.cron, schedule.owner) == ("invoice-intake", "30 2 * * *", "operator")
    schedule.delete()
    demo()
    assert not Schedule.objects.exists()


def test_demo_a_second_time_makes_nothing_with_a_handful_of_queries(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    demo()
    before = (AuditEvent.objects.count(), PipelineGrant.objects.count(), User.objects.count())
    with django_assert_max_num_queries(20):
        assert "everything is there already" in demo()
    assert before == (AuditEvent.objects.count(), PipelineGrant.objects.count(), User.objects.count())


def test_demo_prints_how_to_sign_in() -> None:
    printed = demo()
    for name in ("operator", "approver", "auditor", "admin"):
        assert f"{name}-demo" in printed


def test_demo_keeps_what_an_administrator_changed() -> None:
    demo_accounts.create()
    User.objects.get(username="approver").groups.clear()
    PipelineGrant.objects.filter(group__name="finance").delete()
    demo_accounts.create()
    assert not User.objects.get(username="approver").groups.exists()
    assert not Group.objects.get(name="finance").pipeline_grants.exists()


def test_demo_accounts_may_do_what_they_are_for_and_no_more() -> None:
    demo_accounts.create()
    users = {user.username: user for user in User.objects.all()}
    allowed = {
        name: {verb for verb in PipelineGrant.VERBS if access.may(user, verb, "invoice-intake")}
        for name, user in users.items()
    }
    assert allowed == {
        "operator": {"view", "view_context", "start", "decide", "cancel", "retry", "fork", "signal", "schedule"},
        "approver": {"view", "view_context", "decide"},
        "auditor": {"view", "export"},
        "admin": set(PipelineGrant.VERBS),
    }
    assert {name for name, user in users.items() if user.has_perm("flujo_runs.audit")} == {"auditor", "admin"}
    assert all(user.check_password(f"{name}-demo") for name, user in users.items())
