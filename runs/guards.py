"""The database's own refusals: audit rows are never changed or removed, and no active run is deleted by any path.

SQLite drops a table's triggers when a migration rebuilds the table, as a changed column or constraint makes it do: such
a migration ends with `migrations.RunPython(guards.install, migrations.RunPython.noop)`.
"""

from __future__ import annotations

from django.db.backends.base.schema import BaseDatabaseSchemaEditor

APPEND_ONLY = ("flujo_runs_auditevent", "flujo_runs_siteevent")
NOT_APPENDED = "flujo: audit events are append-only"
STILL_ACTIVE = "flujo: an active run cannot be deleted"
ACTIVE = "('queued', 'running', 'paused')"

SQLITE_INSTALL = [
    *(
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{NOT_APPENDED}'); END"
        for table in APPEND_ONLY
        for verb in ("UPDATE", "DELETE")
    ),
    (
        f"CREATE TRIGGER flujo_runs_run_no_delete BEFORE DELETE ON flujo_runs_run WHEN OLD.status IN {ACTIVE} "
        f"BEGIN SELECT RAISE(ABORT, '{STILL_ACTIVE}'); END"
    ),
]
SQLITE_REMOVE = [
    *(f"DROP TRIGGER IF EXISTS {table}_no_{verb}" for table in APPEND_ONLY for verb in ("update", "delete")),
    "DROP TRIGGER IF EXISTS flujo_runs_run_no_delete",
]

# The error class is 23 (integrity constraint violation), so that Django raises IntegrityError on both databases.
POSTGRESQL_INSTALL = [
    f"""CREATE FUNCTION flujo_refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION '{NOT_APPENDED}' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    f"""CREATE FUNCTION flujo_refuse_active_delete() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION '{STILL_ACTIVE}' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    *(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION flujo_refuse_audit_change()"
        for table in APPEND_ONLY
    ),
    *(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION flujo_refuse_audit_change()"
        for table in APPEND_ONLY
    ),
    (
        f"CREATE TRIGGER flujo_runs_run_no_delete BEFORE DELETE ON flujo_runs_run FOR EACH ROW "
        f"WHEN (OLD.status IN {ACTIVE}) EXECUTE FUNCTION flujo_refuse_active_delete()"
    ),
]
POSTGRESQL_REMOVE = [
    *(
        f"DROP TRIGGER IF EXISTS {table}_no_{verb} ON {table}"
        for table in APPEND_ONLY
        for verb in ("change", "truncate")
    ),
    "DROP TRIGGER IF EXISTS flujo_runs_run_no_delete ON flujo_runs_run",
    "DROP FUNCTION IF EXISTS flujo_refuse_audit_change()",
    "DROP FUNCTION IF EXISTS flujo_refuse_active_delete()",
]

INSTALL = {"sqlite": SQLITE_INSTALL, "postgresql": POSTGRESQL_INSTALL}
REMOVE = {"sqlite": SQLITE_REMOVE, "postgresql": POSTGRESQL_REMOVE}


def install(apps: object, editor: BaseDatabaseSchemaEditor) -> None:
    """Create the triggers, whether or not some of them stand."""
    remove(apps, editor)
    _execute(INSTALL, editor)


def remove(apps: object, editor: BaseDatabaseSchemaEditor) -> None:
    """Drop the triggers."""
    _execute(REMOVE, editor)


def _execute(statements: dict[str, list[str]], editor: BaseDatabaseSchemaEditor) -> None:
    vendor = editor.connection.vendor
    if vendor not in statements:
        raise NotImplementedError(f"Flujo stores its runs in SQLite or PostgreSQL, not in {vendor}.")
    for statement in statements[vendor]:
        editor.execute(statement)
