"""The ledger table that the invoice pipeline posts to."""

from typing import ClassVar

from django.db import models


class LedgerEntry(models.Model):
    """One posted invoice. A run posts an invoice once: a step that runs again finds its own entry."""

    run_id = models.CharField(max_length=128)
    invoice_number = models.CharField(max_length=64)
    supplier = models.CharField(max_length=200)
    vat_id = models.CharField(max_length=32, blank=True)
    issued_on = models.DateField()
    total = models.DecimalField(max_digits=14, decimal_places=2)
    idempotency_key = models.CharField(max_length=200, unique=True)
    posted_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-posted_at", "run_id", "invoice_number"]
        verbose_name_plural = "ledger entries"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["run_id", "supplier", "invoice_number"], name="flujo_site_ledger_entry_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.invoice_number} {self.supplier}: {self.total} EUR"
