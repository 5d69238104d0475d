"""The ``holdfast`` command.

Law: a command asks the agent over its socket and prints the answer; it knows nothing by itself. Imports are
lazy, so that a command starts in a tenth of a second: only ``agent`` and ``validate`` load the floors below.
``main`` finds a command, ``commands`` has them; the rest is what several of them share.
Exit codes: 0 done or nothing to do, 1 error, 2 changes pending or not converged.
"""
