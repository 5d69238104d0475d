"""Desired x observed x now -> Plan: what has to be done to one app, in which order, and why.

Law: pure and total. No I/O, no clock, no randomness, no exception: time and everything seen are arguments, and
equal arguments give equal plans. A plan carried out and computed again is empty.
"""
