"""The agent's own state in one file, and back: what it decided and knows of its apps, not what lies on this host.

The file is a tar of ``manifest.json``, ``holdfast.db``, ``holdfast.key`` and, if there is one, ``age.key``. Records of
containers, images, snapshots, networks and volumes belong to a host and stay where they are; all others are replaced in
one transaction.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from agent.errors import Conflict, HoldfastError, NotFound, Refused, Stalled
from agent.settings import IDENTITY_NAME
from agent.store.atomic import sync_directory, write_atomic
from agent.store.database import RECORD_TABLE, SCHEMA_VERSION, Database
from agent.store.identities import FILE_LIMIT, bring_identities
from agent.store.layout import RESTORING, DataLayout
from agent.store.migrations import copy_database, read_version
from agent.store.sealing import Seal, load_key
from agent.values import frozen

FORMAT = 1
OF_THE_HOST = frozenset(
    {
        *("container", "slot", "spec", "health", "probe"),
        *("image", "image_signers", "image_index", "snapshot", "build_cache", "volume"),
        *("network", "sandbox", "published", "service_names", "network_host", "app_network"),
    }
)
"""The kinds of records that are never restored: what they speak of is on the host that wrote them, and no other."""

_MANIFEST, _DATABASE, _KEY = "manifest.json", "holdfast.db", "holdfast.key"
_LIMITS = {_MANIFEST: 64 << 10, _DATABASE: 2 << 30, _KEY: 4096, IDENTITY_NAME: FILE_LIMIT}
_SUFFIX = "_records"


@frozen
class Summary:
    """What a backup holds: ``created`` in epoch seconds, ``records`` by kind, ``size`` of the file in bytes."""

    created: float
    version: str
    schema: int
    records: dict[str, int]
    size: int


def write_backup(layout: DataLayout, target: Path, version: str) -> Summary:
    """Write the state of ``layout`` to ``target``, whole or not at all; an agent may run meanwhile.

    ``version`` is that of this release. Raises NotFound when there is nothing to back up, Conflict when ``target``
    exists, Stalled when the state is damaged, OSError.
    """
    if target.exists() or target.is_symlink():
        raise Conflict(f"{target} exists", reason="FileExists", hint="name another file, or remove that one")
    if not layout.database.is_file() or not layout.key.is_file():
        hint = "name the agent's --data-root"
        raise NotFound(f"{layout.root} holds no state of an agent", reason="NoState", hint=hint)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        copy = Path(scratch) / _DATABASE
        with _told(layout.database), closing(sqlite3.connect(f"file:{layout.database}?mode=rw", uri=True)) as live:
            copy_database(live, copy)
        records, schema = _inspect(copy)
        keys = {path.name: path.read_bytes() for path in (layout.key, layout.identity) if path.is_file()}
        described = {_DATABASE: _describe(copy), **{name: _describe_key(key) for name, key in keys.items()}}
        created = time.time()
        manifest = {"format": FORMAT, "created": created, "version": version, "schema": schema, "files": described}
        packed = Path(scratch) / "packed"
        _pack(packed, json.dumps(manifest, indent=2).encode(), copy, keys)
        os.link(packed, target)  # not rename: a file that came meanwhile is not replaced
        sync_directory(target.parent)
    return Summary(created, version, schema, records, target.stat().st_size)


def restore_backup(layout: DataLayout, source: Path, *, force: bool) -> Summary:
    """Put the state in ``source`` in the place of that of ``layout``, whose lock the caller holds; first check all.

    Raises Conflict when there is a state and not ``force``, Refused for a file that is no whole backup, Stalled for
    one of a newer release, OSError.
    """
    if layout.database.exists() and not force:
        hint = "--force replaces it; containers, images and volumes of this host stay"
        raise Conflict(f"{layout.root} holds the state of an agent", reason="StateExists", hint=hint)
    layout.sweep()
    with tempfile.TemporaryDirectory(prefix=RESTORING, dir=layout.root) as scratch:
        manifest = _unpack(source, Path(scratch))
        copy = Path(scratch) / _DATABASE
        records, schema = _inspect(copy)
        if schema > SCHEMA_VERSION:
            hint = "restore it with that version"
            raise Stalled(f"{source} is of a newer Holdfast (schema {schema})", reason="BackupTooNew", hint=hint)
        if IDENTITY_NAME in manifest["files"]:
            bring_identities(layout.identity, (Path(scratch) / IDENTITY_NAME).read_bytes())
        key = (Path(scratch) / _KEY).read_bytes()
        if not layout.database.exists():
            write_atomic(layout.key, key)
        _replace_records(layout, copy, load_key(Path(scratch) / _KEY))
    size = source.stat().st_size
    return Summary(float(manifest["created"]), str(manifest["version"]), schema, records, size)


def _replace_records(layout: DataLayout, copy: Path, key: bytes) -> None:
    """All kinds but those of the host, in one transaction; what was sealed under the old key is sealed anew."""
    before, after = Seal(key), Seal(load_key(layout.key))
    Database(copy).close()  # brings what an older release wrote to this one's schema
    Database(layout.database).close()
    with (
        _told(layout.database),
        closing(sqlite3.connect(copy)) as old,
        closing(sqlite3.connect(layout.database, isolation_level=None)) as new,
    ):
        new.execute("BEGIN IMMEDIATE")
        for kind in _kinds(new):
            if kind not in OF_THE_HOST:
                new.execute(f"DELETE FROM {kind}{_SUFFIX}")
        for kind in _kinds(old):
            if kind in OF_THE_HOST:
                continue
            new.execute(f"CREATE TABLE IF NOT EXISTS {kind}{_SUFFIX} {RECORD_TABLE}")
            for name, value in old.execute(f"SELECT key, value FROM {kind}{_SUFFIX}"):
                place = f"{kind}/{name}"
                fresh = after.seal(before.unseal(value, place), place) if isinstance(value, bytes) else value
                new.execute(f"INSERT INTO {kind}{_SUFFIX} VALUES (?, ?)", (name, fresh))
        new.execute("COMMIT")
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _inspect(path: Path) -> tuple[dict[str, int], int]:
    """How many records of each kind a whole database has, and its schema. Raises Stalled."""
    with _told(path), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            raise Stalled(f"{path.name} is damaged: {verdict}", reason="DatabaseDamaged")
        counts = {
            kind: int(connection.execute(f"SELECT count(*) FROM {kind}{_SUFFIX}").fetchone()[0])
            for kind in _kinds(connection)
        }
        return counts, read_version(connection)


def _kinds(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    names = [str(row[0]) for row in rows]
    return [n.removesuffix(_SUFFIX) for n in names if n.endswith(_SUFFIX) and n.replace("_", "a").isalpha()]


def _describe_key(key: bytes) -> dict[str, Any]:
    return {"size": len(key), "sha256": hashlib.sha256(key).hexdigest()}


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _pack(target: Path, manifest: bytes, database: Path, keys: Mapping[str, bytes]) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive, database.open("rb") as copy:
            archive.addfile(_header(_MANIFEST, len(manifest)), io.BytesIO(manifest))
            archive.addfile(_header(_DATABASE, database.stat().st_size), copy)
            for name, key in keys.items():
                archive.addfile(_header(name, len(key)), io.BytesIO(key))
        file.flush()
        os.fsync(file.fileno())


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info


def _unpack(source: Path, scratch: Path) -> dict[str, Any]:
    """Write the files of a backup to ``scratch`` and check them against their digests; returns the manifest."""
    try:
        with tarfile.open(source, "r:") as archive:
            for member, name in zip(archive, _LIMITS, strict=False):
                if member.name != name or not member.isreg() or member.size > _LIMITS[name]:
                    raise Refused(f"{source} is not a backup of Holdfast: it begins with {member.name[:80]!r}")
                _copy_member(archive, member, scratch / name)
        manifest = json.loads((scratch / _MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise Refused(f"{source} is a backup of format {manifest['format']}, this version knows {FORMAT}")
        float(manifest["created"]), str(manifest["version"])
        for name in {_DATABASE, _KEY, *manifest["files"]} & _LIMITS.keys():
            if _describe(scratch / name) != manifest["files"][name]:
                raise Refused(f"{name} in {source} is not what was written", reason="BackupDamaged")
    except (tarfile.TarError, ValueError, KeyError, TypeError, FileNotFoundError) as error:
        if not source.exists():
            raise NotFound(f"there is no file {source}") from None
        raise Refused(f"{source} is not a whole backup of Holdfast: {error}", reason="BackupDamaged") from error
    return dict(manifest)


def _copy_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = archive.extractfile(member)
    assert content is not None
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        while chunk := content.read(1 << 20):
            file.write(chunk)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except HoldfastError:
        raise
    except sqlite3.Error as error:
        raise Stalled(f"{path} cannot be read: {error}", reason="DatabaseDamaged") from error
