"""Images: pulled from registries, verified, unpacked to snapshots and kept in an OCI layout.

Law: nothing that came from outside is used before its digest is verified, and nothing of a layer is written but
beneath its own snapshot. Every call blocks; every wait has a timeout and can be cancelled. What a crash or a full
disk leaves is either resumed or removed, never served. `store.ImageStore` is the door; the rest is behind it.

What is kept: blobs (``content``), unpacked layers (``snapshots``), which images there are (``records``) and what they
say of themselves (``documents``). A pull (``fetching``, ``puller``) asks ``policy_gate``; it goes by ``registry``
over ``session``, ``transport`` and ``pools``; ``layerpull`` brings each blob through ``download``, each layer through
``layer`` to ``unpack`` or ``layerimage``, large ones by ``unpackers`` in a process of their own; ``recording`` notes
what came. A push is ``cargo``, ``pusher`` and ``uploads``. Images in files are ``archives`` and ``archive_*``; images
made here ``commit`` and ``assembly``. ``collect`` takes away what nobody needs, ``verify`` finds what is damaged. How
registries are reached is in ``registryfile``, ``endpoints``, ``proxies``, ``auth``, ``credentials``; who signed what
in ``signature`` and ``bundle``.
"""
