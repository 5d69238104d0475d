"""Holdfast: a GitOps agent for one Linux host, with a container runtime of its own."""

__version__ = "0.1.0"
