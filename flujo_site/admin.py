"""The ledger in the admin: to be read and searched, never changed."""

from typing import TYPE_CHECKING

from django.contrib import admin
from django.http import HttpRequest

from flujo_site.models import LedgerEntry

if TYPE_CHECKING:
    _LedgerAdmin = admin.ModelAdmin[LedgerEntry]
else:
    _LedgerAdmin = admin.ModelAdmin


@admin.register(LedgerEntry)
class LedgerEntryAdmin(_LedgerAdmin):
    """Only the invoice pipeline posts."""

    list_display = ("invoice_number", "supplier", "issued_on", "total", "run_id", "posted_at")
    search_fields = ("invoice_number", "supplier", "vat_id", "run_id")
    date_hierarchy = "issued_on"
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: LedgerEntry | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: LedgerEntry | None = None) -> bool:
        return False
