"""A layer's packed bytes to files and back: tar, compression, and directories that overlayfs can take.

Every file is made by descriptor beneath one root (``rooted``); every format is read in one pass and bounded memory.
"""
