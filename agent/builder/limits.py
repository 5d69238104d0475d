"""Bounds, in bytes, on what a build is given beside its contexts."""

MAX_DOCKERFILE = 1 << 20
MAX_SECRET = 500 * 1024
