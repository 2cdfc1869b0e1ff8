"""The one Django app: store, services and console."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class RunsConfig(AppConfig):
    """Finds each installed app's `pipelines.py`, as Django finds `admin.py`."""

    name = "runs"
    label = "flujo_runs"
    verbose_name = "Flujo"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from runs import checks, signals  # registers the system checks and the audit of sign-ins

        autodiscover_modules("pipelines")
