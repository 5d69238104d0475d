"""What the agent tells about itself: log lines, events and metrics.

Law: nothing here decides anything, reads the host or imports another package of this floor; what it shows is
handed in. A secret never leaves through it: every log line, event and API error passes ``redaction``.
"""
