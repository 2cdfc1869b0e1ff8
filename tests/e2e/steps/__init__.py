"""The pipelines that only the browser tests run."""
