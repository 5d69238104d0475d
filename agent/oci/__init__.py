"""Value types of the OCI specifications: digest, reference, descriptor, manifest, image config, platform, mount.

Law: no I/O, no clock, no randomness. Everything decoded here came from outside and is distrusted: wrong type, size,
depth or spelling is a typed error (`Refused` or one of its kin), never another exception.
"""
