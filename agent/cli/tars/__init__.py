"""Tars and root file systems between files, terminals and the agent."""
