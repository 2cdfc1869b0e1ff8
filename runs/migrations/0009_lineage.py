"""Lineage: which run a rerun or a fork comes from, and the grant to fork."""

from importlib import import_module
from typing import ClassVar

from django.db import migrations, models

admission = import_module("runs.migrations.0005_admission")


class Migration(migrations.Migration):
    dependencies: ClassVar = [("flujo_runs", "0008_concurrency")]

    operations: ClassVar = [
        migrations.AddField(
            model_name="run",
            name="derived_at",
            field=models.CharField(blank=True, max_length=200),
        ),
        migrations.AddField(
            model_name="run",
            name="derived_from",
            field=models.CharField(blank=True, max_length=128),
        ),
        migrations.AlterField(
            model_name="auditevent",
            name="kind",
            field=models.CharField(
                choices=[
                    ("run.started", "run.started"),
                    ("run.imported", "run.imported"),
                    ("run.claimed", "run.claimed"),
                    ("run.released", "run.released"),
                    ("run.described", "run.described"),
                    ("run.paused", "run.paused"),
                    ("run.completed", "run.completed"),
                    ("run.failed", "run.failed"),
                    ("run.retried", "run.retried"),
                    ("run.forked", "run.forked"),
                    ("run.cancel_requested", "run.cancel requested"),
                    ("run.cancelled", "run.cancelled"),
                    ("run.rejected", "run.rejected"),
                    ("run.purged", "run.purged"),
                    ("run.parked", "run.parked"),
                    ("run.unparked", "run.unparked"),
                    ("lease.lost", "lease.lost"),
                    ("step.completed", "step.completed"),
                    ("step.failed", "step.failed"),
                    ("step.taken_over", "step.taken over"),
                    ("timer.started", "timer.started"),
                    ("timer.fired", "timer.fired"),
                    ("signal.awaited", "signal.awaited"),
                    ("signal.received", "signal.received"),
                    ("signal.taken", "signal.taken"),
                    ("signal.expired", "signal.expired"),
                    ("human_task.raised", "human task.raised"),
                    ("human_task.closed", "human task.closed"),
                    ("decision.recorded", "decision.recorded"),
                ],
                max_length=32,
            ),
        ),
        migrations.AlterField(
            model_name="pipelinegrant",
            name="verb",
            field=models.CharField(
                choices=[
                    ("view", "view"),
                    ("view_context", "view_context"),
                    ("start", "start"),
                    ("decide", "decide"),
                    ("cancel", "cancel"),
                    ("retry", "retry"),
                    ("fork", "fork"),
                    ("signal", "signal"),
                    ("delete", "delete"),
                    ("export", "export"),
                ],
                max_length=16,
            ),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(
                condition=models.Q(("derived_from", ""), _negated=True),
                fields=["derived_from"],
                name="flujo_run_derived",
            ),
        ),
        migrations.RunPython(admission.guard_again, migrations.RunPython.noop),
    ]
