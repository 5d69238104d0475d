"""Patterns of file names and of variables, in time linear in what they are matched with."""
