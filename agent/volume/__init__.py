"""Named volumes: the users' data, in ``<root>/<name>/_data``, made once and never removed by the agent itself.

Law: no byte in a volume that is not empty is ever touched, and no symbolic link is followed on the way to one.
"""
