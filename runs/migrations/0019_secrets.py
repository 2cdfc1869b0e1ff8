"""What a run's values hold that is not shown."""

from importlib import import_module
from typing import ClassVar

from django.db import migrations, models

admission = import_module("runs.migrations.0005_admission")


class Migration(migrations.Migration):
    dependencies: ClassVar = [("flujo_runs", "0018_children")]

    operations: ClassVar = [
        migrations.AddField("run", "secrets", models.TextField(blank=True)),
        migrations.RunPython(admission.guard_again, migrations.RunPython.noop),
    ]
