"""Desired state: Compose files become frozen models, or all their problems with file, line and column.

Law: no clock, no randomness, no I/O but the reader that the caller passes in. Whatever the bytes are, the only
exception that leaves ``load_app`` is InvalidSpec; time and memory are bounded before anything is built. What is not
supported is a problem, never ignored. No message quotes a value that came from a variable or stands in an environment.
"""
