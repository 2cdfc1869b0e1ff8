"""Counts that stop at a bound, so that a tab over a million rows costs no more than one over ten thousand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import QuerySet

BOUND = 10_000


def bounded_counts(parts: Mapping[str, QuerySet[Any]], bound: int = BOUND) -> dict[str, int]:
    """The number of rows of each queryset, at most `bound + 1`, in one query.

    The ORM can't say this: a limit inside each part of a union is refused for SQLite, so the parts are wrapped here.
    """
    selects: list[str] = []
    params: list[Any] = []
    using = "default"
    for name, part in parts.items():
        rows = part.order_by().values("pk")[: bound + 1]
        using = rows.db
        try:
            sql, values = rows.query.get_compiler(using).as_sql()
        except EmptyResultSet:  # nothing can match, as where nothing may be seen
            continue
        selects.append(f"SELECT %s AS name, COUNT(*) FROM ({sql}) AS bounded")  # noqa: S608  # compiled by the ORM, values apart
        params += [name, *values]
    if not selects:
        return dict.fromkeys(parts, 0)
    with connections[using].cursor() as cursor:
        cursor.execute(" UNION ALL ".join(selects), params)
        counted = dict(cursor.fetchall())
    return {name: counted.get(name, 0) for name in parts}


def count_words(count: int, bound: int = BOUND) -> str:
    """The count as a tab shows it: exact up to the bound, then the bound and a plus."""
    return f"{count:,}".replace(",", " ") if count <= bound else f"{bound:,}+".replace(",", " ")
