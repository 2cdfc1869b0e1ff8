"""The demo site's own app."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    """Brings the demo pipelines and their ledger."""

    name = "flujo_site"
    verbose_name = "Demo"
    default_auto_field = "django.db.models.BigAutoField"
