"""The composition root: builds every object once, runs them in one task group, shuts down in order.

Law: no logic. Whatever decides something lives below.
"""
