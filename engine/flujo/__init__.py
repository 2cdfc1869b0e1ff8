"""Durable, resumable workflows for Python."""
