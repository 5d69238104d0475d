"""Healthchecks and probes: when each is asked, how, and what its answers make of a container. ``checks`` joins them."""
