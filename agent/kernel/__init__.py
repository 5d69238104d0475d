"""The kernel's interfaces, one small module each: system calls, mounts, namespaces, cgroups, netlink, nftables.

Law: thin wrappers that raise OSError with the kernel's errno; no policy, no state, no knowledge of containers.
"""
