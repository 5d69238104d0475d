"""A layer as one file: an EROFS image that is written in one pass, and its mount.

``ondisk`` has the format's structures, ``layerimage`` makes an image of a layer's tar, ``layermounts`` mounts it.
"""
