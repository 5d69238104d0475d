"""The loop, and the only bridge between desired state and the host: trigger, observe, plan, act, tell.

Law: everything is decided by ``agent.plan`` and done by the engine behind ``port``; nothing here polls but what nobody
announces (``tampering``, ``drain``), no app ever waits for another, every error becomes a condition in one function.

``controller`` follows the source and gives every app its target (``targets``, ``lastgood``); ``appworkers`` has a
``worker`` for each. A pass of a worker is ``inventory`` (observe), ``planning`` with ``deploy.aiming`` and
``deploy.deploys`` (plan), ``underway`` with ``apply`` (act), ``telling.conditions`` and ``traffic.publisher`` (tell).
Before a deploy begins stands ``deploy.admission``. ``health.checks`` joins healthchecks and probes. What people ask
for is in ``deploycommands``, ``suspension``, ``queries``, ``explaining``. What must outlive the agent goes through
``journal``.
"""
