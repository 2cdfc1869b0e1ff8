"""How runs are let in: the idempotency key of a start, and priority."""

from importlib import import_module
from typing import ClassVar

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

guards = import_module("runs.migrations.0002_guards")


def guard_again(apps: object, editor: BaseDatabaseSchemaEditor) -> None:
    """SQLite has rebuilt the table of runs, and dropped its triggers with the old one."""
    if editor.connection.vendor == "sqlite":
        guards.remove(apps, editor)
        guards.install(apps, editor)


class Migration(migrations.Migration):
    dependencies: ClassVar = [("flujo_runs", "0004_retry_waits")]

    operations: ClassVar = [
        migrations.AddField("run", "idempotency_key", models.CharField(blank=True, max_length=200)),
        migrations.AddField("run", "priority", models.IntegerField(default=0)),
        migrations.AddIndex(
            "run",
            models.Index(
                condition=models.Q(status="queued"),
                fields=["status", "-priority", "created_at", "fingerprint"],
                name="flujo_run_queued",
            ),
        ),
        migrations.RunPython(guard_again, migrations.RunPython.noop),
    ]
