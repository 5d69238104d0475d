"""Images: pulled from registries, verified, unpacked to snapshots and kept in an OCI layout.

Law: nothing that came from outside is used before its digest is verified, and nothing of a layer is written but
beneath its own snapshot. Every call blocks; every wait has a timeout and can be cancelled. What a crash or a full
disk leaves is either resumed or removed, never served. `store.ImageStore` is the door; the rest is behind it.

From above to below, as imports go: ``archive`` reads and writes images in files; ``transfer`` pulls and pushes;
``recording`` notes what came, ``collect`` takes away what nobody needs, ``verify`` finds what is damaged; ``trust``
decides what may come in; ``storage`` keeps blobs, snapshots and records; ``unpacking`` has processes for large layers;
``erofs`` makes one file of a layer, ``layers`` a directory; ``registry`` is the way to registries and their API.

A pull is ``transfer.fetching``, which asks ``trust.policy_gate``, and ``transfer.puller``; ``transfer.layerpull``
brings each blob through ``download``, each layer through ``layers.layer`` to ``layers.unpack`` or
``erofs.layerimage``; ``recording`` ends it. A push is ``transfer.cargo``, ``pusher`` and ``uploads``.
"""
