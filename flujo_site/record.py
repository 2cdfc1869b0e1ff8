"""A record: a value that travels from step to step of the demo pipelines."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen, and strict about its fields, so that one record is never taken for another."""

    model_config = ConfigDict(extra="forbid", frozen=True)
