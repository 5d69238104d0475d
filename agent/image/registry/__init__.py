"""Registries: which one is asked for an image, how it is reached, who asks, and its API (``client``).

Knows nothing of stores and layers. What a registry answers is hostile: bounded, and given up on when it trickles.
"""
