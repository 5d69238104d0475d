"""Images in files: docker-archive and OCI layout as tars and directories, root file systems; in and out.

``archives`` is the door.
"""
