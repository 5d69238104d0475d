"""The loop, and the only bridge between desired state and the host: trigger, observe, plan, act, tell.

Law: everything is decided by ``agent.plan`` and done by the engine behind ``port``; nothing here polls, no
app ever waits for another, and every error becomes a condition in one function.
"""
