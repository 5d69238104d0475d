"""The kernel's interfaces, one small module each: system calls, mounts, namespaces, processes, netlink, nftables.

Law: thin wrappers that raise OSError with the kernel's errno; no policy, no state, no knowledge of containers.
"""
