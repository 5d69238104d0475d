"""Sealed records: readable with the right key at the right place only, and never in clear on the disk."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from agent.errors import Stalled
from agent.store.aead import AesGcm, AuthenticationFailed
from agent.store.database import Database
from agent.store.sealing import Seal, load_key

CANARY = "canary-hunter2-canary"


def test_known_answers() -> None:
    """Test cases 13 to 16 of the GCM specification (NIST), AES-256."""
    zero = AesGcm(bytes(32))
    assert zero.encrypt(bytes(12), b"", b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    expected = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    assert zero.encrypt(bytes(12), bytes(16), b"").hex() == expected
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308") * 2
    nonce, associated = bytes.fromhex("cafebabefacedbaddecaf888"), bytes.fromhex("feedfacedeadbeef" * 2 + "abaddad2")
    text = (
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    sealed = (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    assert AesGcm(key).encrypt(nonce, bytes.fromhex(text), associated).hex() == sealed
    assert AesGcm(key).decrypt(nonce, bytes.fromhex(sealed), associated).hex() == text


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 4096, 1 << 20])
def test_every_changed_bit_is_noticed(length: int) -> None:
    cipher, data = AesGcm(os.urandom(32)), os.urandom(length)
    nonce = os.urandom(12)
    sealed = cipher.encrypt(nonce, data, b"place")
    assert len(sealed) == length + 16
    assert cipher.decrypt(nonce, sealed, b"place") == data
    for position in {0, length // 2, len(sealed) - 1}:
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(AuthenticationFailed):
            cipher.decrypt(nonce, bytes(changed), b"place")
    for wrong in (sealed[:-1], sealed[:15], b""):
        with pytest.raises(AuthenticationFailed):
            cipher.decrypt(nonce, wrong, b"place")
    with pytest.raises(AuthenticationFailed):
        cipher.decrypt(nonce, sealed, b"other")


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        AesGcm(bytes(31))


def test_records_are_sealed_on_disk(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", Seal(load_key(tmp_path / "key")), ["secret"])
    document = {"environment": {"PASSWORD": CANARY}, "text": "é"}
    database.put("secret", "a", document)
    database.put("open", "a", {"x": "visible"})
    assert database.get("secret", "a") == document
    assert database.all("secret") == {"a": document}
    found = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert CANARY.encode() not in found
    assert b"visible" in found
    database.close()
    again = Database(tmp_path / "a.db", Seal(load_key(tmp_path / "key")), ["secret"])
    assert again.get("secret", "a") == document


def test_a_record_in_another_place_is_not_believed(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", Seal(load_key(tmp_path / "key")), ["secret"])
    database.put("secret", "a", {"n": 1})
    database.put("secret", "b", {"n": 2})
    database.close()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE secret_records SET value=(SELECT value FROM secret_records WHERE key='a')")
    again = Database(tmp_path / "a.db", Seal(load_key(tmp_path / "key")), ["secret"])
    assert again.get("secret", "a") == {"n": 1}
    with pytest.raises(Stalled, match="secret/b"):
        again.get("secret", "b")


def test_another_key_or_none_is_said(tmp_path: Path) -> None:
    Database(tmp_path / "a.db", Seal(load_key(tmp_path / "key")), ["secret"]).put("secret", "a", {"PASSWORD": CANARY})
    (tmp_path / "key").unlink()
    for seal in (Seal(load_key(tmp_path / "key")), None):
        with pytest.raises(Stalled) as caught:
            Database(tmp_path / "a.db", seal, ["secret"]).all("secret")
        assert caught.value.reason == "RecordSealed"
        assert CANARY not in str(caught.value)


def test_what_was_open_is_sealed_when_next_written(tmp_path: Path) -> None:
    Database(tmp_path / "a.db").put("secret", "a", {"n": 1})
    database = Database(tmp_path / "a.db", Seal(load_key(tmp_path / "key")), ["secret"])
    assert database.get("secret", "a") == {"n": 1}
    database.put("secret", "a", {"n": 2})
    row = sqlite3.connect(tmp_path / "a.db").execute("SELECT typeof(value) FROM secret_records").fetchone()
    assert row == ("blob",)


def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = load_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert load_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    for content in (b"", key[:-1], key + b"x"):
        path.write_bytes(content)
        with pytest.raises(Stalled, match="not a key"):
            load_key(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Stalled, match="not a key"):
        load_key(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(Stalled, match="symbolic"):
        load_key(path)
