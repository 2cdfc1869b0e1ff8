"""One human task: what is asked, on what evidence, and the form that decides it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from flujo.errors import FlujoError, HumanTaskNotFound, InvalidAnswer
from flujo.records import Vote
from flujo.status import DecisionOutcome

from runs import access
from runs.decision_form import DecisionForm
from runs.inbox_filter import InboxFilter
from runs.models import HumanTask
from runs.queries import inbox
from runs.queries.human_task import RequestPage, request_page
from runs.services.decide import decide as record_decision
from runs.services.decide import record_refusal
from runs.services.origin import origin_of
from runs.views.errors import respond

TEMPLATE = "human_tasks/detail.html"


@require_safe
@never_cache
def detail(request: HttpRequest, task_id: int) -> HttpResponse:
    """The request with its form."""
    page = _page(request, task_id)
    return render(request, TEMPLATE, _context(request, page, DecisionForm.of(page, request)))


@require_safe
@never_cache
def fragment(request: HttpRequest, task_id: int) -> HttpResponse:
    """Where the request stands now, without the form."""
    page = _page(request, task_id)
    return render(request, "human_tasks/_status.html", {"page": page, "was_open": request.GET.get("was") == "open"})


@require_http_methods(["GET", "POST"])
@never_cache
def decide(request: HttpRequest, task_id: int) -> HttpResponse:
    """Record the decision, or show the form again with everything that was typed."""
    page = _page(request, task_id)
    if request.method == "GET":  # where signing in again leads after a session ended on this form
        return redirect(page.task)
    form = DecisionForm.of(page, request)
    complete = form.complete()
    if form.usable and not complete:
        if form.changes_rows:
            return render(request, TEMPLATE, _context(request, page, form))
        _record(request, task_id, InvalidAnswer())
        return render(request, TEMPLATE, _context(request, page, form), status=422)
    try:
        decision = record_decision(
            actor=request.user,
            task_id=task_id,
            generation=form.generation,
            digest=form.digest,
            outcome=form.outcome,
            data=form.answer,
            reason=form.reason,
            key=form.key,
            origin=origin_of(request),
        )
    except HumanTaskNotFound as error:
        raise Http404(error.message) from error
    except FlujoError as error:
        return _refused(request, task_id, error)
    if isinstance(decision, Vote):
        messages.success(request, _voted(_page(request, task_id)))
    else:
        messages.success(request, _done(request, page, DecisionOutcome(decision.outcome)))
    return _after(request, page.task)


def _page(request: HttpRequest, task_id: int) -> RequestPage:
    try:
        task = access.get_task_or_404(request.user, task_id)
    except Http404:
        if request.method == "POST":
            _record(request, task_id, HumanTaskNotFound())
        raise
    return request_page(request.user, task)


def _record(request: HttpRequest, task_id: int, refusal: FlujoError) -> None:
    record_refusal(actor=request.user, task_id=task_id, refusal=refusal, origin=origin_of(request))


def _context(request: HttpRequest, page: RequestPage, form: DecisionForm) -> dict[str, Any]:
    """What the page shows; the filter of the inbox goes along, so that the next request is one of those."""
    wanted = InboxFilter.of(request.GET)
    following = wanted.link(view="mine", cursor="", after=str(page.task.pk))
    return {"page": page, "form": form, "filter": wanted, "next_query": following, "nav": "inbox"}


def _refused(request: HttpRequest, task_id: int, error: FlujoError) -> HttpResponse:
    """The page as it stands now, with the input kept and the reason for the refusal."""
    page = _page(request, task_id)
    form = DecisionForm.of(page, request)
    form.refuse(error)
    return respond(request, error, TEMPLATE, _context(request, page, form))


def _after(request: HttpRequest, task: HumanTask) -> HttpResponse:
    """303 to the request; htmx follows redirects by itself, so it is told by a header to load the page."""
    address = task.get_absolute_url() + InboxFilter.of(request.GET).narrowing
    if getattr(request, "htmx", False):
        return HttpResponse(headers={"HX-Redirect": address})
    return HttpResponseRedirect(address, status=303)


def _voted(page: RequestPage) -> str:
    return f"Your vote is recorded: {page.votes_words}."


def _done(request: HttpRequest, page: RequestPage, outcome: DecisionOutcome) -> SafeString:
    rejected = outcome == DecisionOutcome.REJECTED
    what = "Rejected" if rejected else {"bool": "Approved"}.get(page.task.kind, "Answered")
    effect = page.task.if_rejected if rejected else page.task.if_approved
    wanted = InboxFilter.of(request.GET)
    following = inbox.next_open(request.user, wanted, after=page.task.pk)
    return format_html(
        '{}. Next: {}. <a href="{}">Follow the run</a>{}',
        what,
        effect,
        reverse("runs:run", args=[page.run.pk]),
        format_html(
            ' or <a href="{}" data-key-next>open the next request</a> (key <kbd>n</kbd>).',
            following.get_absolute_url() + wanted.narrowing,
        )
        if following
        else ". Nothing else waits for you{}.".format(" in this filter" if wanted.narrowed else ""),
    )
