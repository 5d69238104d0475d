"""Telling others of deploys and troubles: from events to webhooks and commands, through a bounded queue on disk.

Law: nothing here is waited for by anybody, and no URL and no secret is in a log line, an event or the database.
"""
