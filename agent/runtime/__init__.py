"""Running containers on this host: the keeper, its client, OCI bundles, users, logs and figures.

Law: only the keeper forks. What the keeper imports is standard library only and stays small; its memory is paid
for in every fork.
"""
