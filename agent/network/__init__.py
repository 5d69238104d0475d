"""Networks of containers: bridges, sandboxes (network namespaces with addresses), published ports and names.

Names are answered by a process of its own, ``nameserver``; all else here runs in the agent.

Law: ``NetworkStack`` is the only way in. Records are written before the kernel is changed and removed after, so that
``recover`` can bring order after a crash at any point. Everything made in the kernel carries the instance in its
name, number or subnet; what does not is never touched. IPv4 only: IPv6 is off on every link made here.
"""
