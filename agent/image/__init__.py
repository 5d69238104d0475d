"""Images: pulled from registries, verified, unpacked to snapshots and kept in an OCI layout.

Law: nothing that came from outside is used before its digest is verified, and nothing of a layer is written but
beneath its own snapshot. Every call blocks; every wait has a timeout and can be cancelled. What a crash or a full
disk leaves is either resumed or removed, never served. `store.ImageStore` is the door; the rest is behind it.
"""
