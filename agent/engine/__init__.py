"""The engine: everything that can be done to one host, as plain blocking calls.

Law: it knows nothing of services, YAML or plans. Every call either succeeds whole or leaves nothing behind.
"""
