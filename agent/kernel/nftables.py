"""libnftables in-process (man 3 libnftables): one text of commands, one transaction, no subprocess."""

from __future__ import annotations

import ctypes
import threading

_LIBRARY = "libnftables.so.1"


class NftablesError(OSError):
    """The text was not understood or the kernel refused it; nothing of it is in force."""


class Nftables:
    """One libnftables context; thread-safe. Raises OSError when the library is absent."""

    def __init__(self) -> None:
        self._library = _load()
        self._lock = threading.Lock()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise OSError("libnftables gave no context (is nf_tables in the kernel?)")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Free the context."""
        with self._lock:
            if self._context:
                self._library.nft_ctx_free(self._context)
                self._context = None

    def run(self, commands: str) -> str:
        """Carry out ``commands`` in nft's own language, all or nothing; the output. Raises NftablesError."""
        with self._lock:
            code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            output = self._library.nft_ctx_get_output_buffer(self._context)
            error = self._library.nft_ctx_get_error_buffer(self._context)
        if code:
            raise NftablesError(error.decode(errors="replace").strip() or "nftables refused the change")
        return str(output.decode(errors="replace"))


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(_LIBRARY)
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    return library
