"""The keeper: parent of every container, one single-threaded process with one epoll loop.

Law: standard library and ``agent.kernel`` only, no thread, no blocking call but fork's own set-up, and nothing that
raises out of the loop. All modules are imported before the first fork: a child that has left the host's root must
never import.
"""
