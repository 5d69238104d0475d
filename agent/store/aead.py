"""AES-256-GCM out of the libcrypto that Python's own ``hashlib`` and ``ssl`` already loaded (EVP_EncryptInit(3)).

The cipher, its constant time and its checks are OpenSSL's; here is only the calling convention.
"""

from __future__ import annotations

import ctypes

from agent.errors import Unsupported

KEY_SIZE, NONCE_SIZE, TAG_SIZE = 32, 12, 16
_LIBRARY = "libcrypto.so.3"
_GET_TAG, _SET_TAG = 0x10, 0x11
_POINTER, _BYTES, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int


class AuthenticationFailed(Exception):
    """The sealed bytes, the nonce, the associated data or the key are not those of the sealing."""


class AesGcm:
    """Authenticated encryption under one key. Thread-safe. A nonce must never be used twice with the same key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"the key has {len(key)} bytes, not {KEY_SIZE}")
        self._key = key
        self._crypto = _load()
        self._cipher = self._crypto.EVP_aes_256_gcm()

    def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """The encrypted data with its tag behind it."""
        with _Context(self._crypto) as context:
            self._begin(context, "Encrypt", nonce, associated)
            out = ctypes.create_string_buffer(len(data) + TAG_SIZE)
            length = self._update(context, "Encrypt", out, data)
            _check(self._crypto.EVP_EncryptFinal_ex(context, ctypes.byref(out, length), ctypes.byref(_INT())))
            tag = ctypes.byref(out, len(data))
            _check(self._crypto.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, TAG_SIZE, tag))
            return out.raw

    def decrypt(self, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """The data of ``encrypt``. Raises AuthenticationFailed, and then gives nothing away."""
        data, tag = sealed[:-TAG_SIZE], sealed[-TAG_SIZE:]
        if len(tag) != TAG_SIZE or len(nonce) != NONCE_SIZE:
            raise AuthenticationFailed
        with _Context(self._crypto) as context:
            self._begin(context, "Decrypt", nonce, associated)
            out = ctypes.create_string_buffer(len(data) + TAG_SIZE)
            length = self._update(context, "Decrypt", out, data)
            _check(self._crypto.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, TAG_SIZE, ctypes.c_char_p(tag)))
            if self._crypto.EVP_DecryptFinal_ex(context, ctypes.byref(out, length), ctypes.byref(_INT())) != 1:
                raise AuthenticationFailed
            return out.raw[: len(data)]

    def _begin(self, context: int, way: str, nonce: bytes, associated: bytes) -> None:
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"the nonce has {len(nonce)} bytes, not {NONCE_SIZE}")
        begin = getattr(self._crypto, f"EVP_{way}Init_ex")
        _check(begin(context, self._cipher, None, self._key, nonce))
        if associated:
            self._update(context, way, None, associated)

    def _update(self, context: int, way: str, out: object, data: bytes) -> int:
        length = _INT()
        _check(getattr(self._crypto, f"EVP_{way}Update")(context, out, ctypes.byref(length), data, len(data)))
        return length.value


class _Context:
    """An EVP_CIPHER_CTX, freed (and its key wiped by OpenSSL) at the end of the block."""

    def __init__(self, crypto: ctypes.CDLL) -> None:
        self._crypto = crypto

    def __enter__(self) -> int:
        self._pointer = self._crypto.EVP_CIPHER_CTX_new()
        if not self._pointer:
            raise MemoryError
        return int(self._pointer)

    def __exit__(self, *_: object) -> None:
        self._crypto.EVP_CIPHER_CTX_free(self._pointer)


def _check(result: int) -> None:
    if result != 1:
        raise RuntimeError("libcrypto refused to work")


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise Unsupported(
            f"{_LIBRARY} cannot be loaded: {error}", reason="CryptoMissing", hint="install OpenSSL 3 (libssl3)"
        ) from error
    library.EVP_CIPHER_CTX_new.restype = _POINTER
    library.EVP_CIPHER_CTX_new.argtypes = []
    library.EVP_CIPHER_CTX_free.restype = None
    library.EVP_CIPHER_CTX_free.argtypes = [_POINTER]
    library.EVP_aes_256_gcm.restype = _POINTER
    library.EVP_aes_256_gcm.argtypes = []
    library.EVP_CIPHER_CTX_ctrl.argtypes = [_POINTER, _INT, _INT, _POINTER]
    for way in ("Encrypt", "Decrypt"):
        getattr(library, f"EVP_{way}Init_ex").argtypes = [_POINTER, _POINTER, _POINTER, _BYTES, _BYTES]
        getattr(library, f"EVP_{way}Update").argtypes = [_POINTER, _POINTER, _POINTER, _BYTES, _INT]
        getattr(library, f"EVP_{way}Final_ex").argtypes = [_POINTER, _POINTER, _POINTER]
    return library
