"""How many runs go at once: the key among whose runs each is counted."""

from importlib import import_module
from typing import ClassVar

from django.db import migrations, models

guard_again = import_module("runs.migrations.0005_admission").guard_again


class Migration(migrations.Migration):
    dependencies: ClassVar = [("flujo_runs", "0007_change_policy")]

    operations: ClassVar = [
        migrations.AddField("run", "concurrency_key", models.CharField(blank=True, max_length=401)),
        migrations.RemoveIndex("run", "flujo_run_queued"),
        migrations.AddIndex(
            "run",
            models.Index(
                condition=models.Q(status="queued"),
                fields=["status", "-priority", "created_at", "fingerprint", "concurrency_key"],
                name="flujo_run_queued",
            ),
        ),
        migrations.AddIndex(
            "run",
            models.Index(
                condition=models.Q(status="running"), fields=["status", "concurrency_key"], name="flujo_run_running"
            ),
        ),
        migrations.RunPython(guard_again, migrations.RunPython.noop),
    ]
