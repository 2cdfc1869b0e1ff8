"""The files the demo pipelines read, and the script that makes them."""
