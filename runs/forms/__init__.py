"""Forms made from stored JSON Schema."""

from runs.forms.form import Problem, SchemaForm

__all__ = ["Problem", "SchemaForm"]
