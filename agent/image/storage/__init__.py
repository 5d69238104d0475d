"""What is kept: blobs (``content``), unpacked layers (``snapshots``), which images there are (``records``).

Everything is verified when it is written, and survives a crash at any point.
"""
