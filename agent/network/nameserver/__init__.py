"""The name server: a small process of its own that answers containers' DNS questions, whatever the agent does.

Law: C modules and the smallest of the standard library only; one thread, one loop. It knows no more than the zone that
the agent gives it over a unix socket, binds no port (the agent hands bound sockets over) and holds no capability. It
goes on with its last zone when the agent has gone.
"""
