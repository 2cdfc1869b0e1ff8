"""The site's pipeline registry: every installed app's `pipelines.py` registers here."""

from flujo import PipelineRegistry

registry = PipelineRegistry()
