"""Holdfast's own HTTP API on a unix socket, and /metrics, /healthz and /readyz beside it.

Law: translates between HTTP and the objects below, and decides nothing. No call here blocks the event loop:
short calls go through one bounded thread gate, long ones have a thread of their own and a bounded queue, and
everything that belongs to a client ends with that client. Importing this package costs nothing.
"""
