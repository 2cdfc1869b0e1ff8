"""The audit pages: who did what, when, from where; its export; and the proof that nothing was changed since."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from flujo.errors import NotAllowed

from runs.queries import audit
from runs.services.audit_export import export as export_audit
from runs.services.audit_export import may_export
from runs.services.origin import origin_of
from runs.services.verify import verify as verify_chains
from runs.views.errors import respond

SITE_IS_AUDITORS = "Only people with the permission 'audit' may see this. An administrator can grant it to your group."


@require_safe
@never_cache
def index(request: HttpRequest) -> HttpResponse:
    """The newest events that match the filter; the site's own under a tab of their own."""
    asked = audit.AuditFilter(request.GET)
    is_auditor = request.user.has_perm("flujo_runs.audit")
    if asked.site and not is_auditor:
        return respond(request, NotAllowed(SITE_IS_AUDITORS), "403.html")
    context = {
        "nav": "audit",
        "asked": asked,
        "page": audit.page(request.user, asked),
        "is_auditor": is_auditor,
        "newest": asked.url(),
        "may_export": may_export(request.user),
    }
    return render(request, "audit/index.html", context, status=422 if asked.problems else 200)


@require_POST
def export(request: HttpRequest) -> HttpResponseBase:
    """The same events as a CSV file; a POST, since it leaves a record."""
    asked = audit.AuditFilter(request.POST)
    try:
        pieces = export_audit(actor=request.user, asked=asked, origin=origin_of(request))
    except NotAllowed as error:
        return respond(request, error, "403.html", {"nav": "audit"})
    content = _drip(pieces) if isinstance(request, ASGIRequest) else pieces
    headers = {"Content-Disposition": 'attachment; filename="flujo-audit.csv"', "Cache-Control": "no-store"}
    return StreamingHttpResponse(content, content_type="text/csv; charset=utf-8", headers=headers)


async def _drip(pieces: Iterator[str]) -> AsyncIterator[str]:
    """The pieces as an asynchronous server wants them, each made when the one before has been sent."""
    while (piece := await sync_to_async(lambda: next(pieces, None))()) is not None:
        yield piece


@require_safe
@never_cache
def verify(request: HttpRequest) -> HttpResponse:
    """Walk all chains now and say whether they are intact."""
    if not request.user.has_perm("flujo_runs.audit"):
        return respond(request, NotAllowed(SITE_IS_AUDITORS), "403.html", {"nav": "audit"})
    reports = verify_chains()
    intact = all(report.intact for report in reports)
    return render(request, "audit/verify.html", {"nav": "audit", "reports": reports, "intact": intact})
