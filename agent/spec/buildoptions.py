"""What ``build`` says beside contexts, Dockerfile and arguments: names, cache, network, hosts, ssh, and what no build
can have."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from typing import Any

from agent.errors import HoldfastError
from agent.oci.platform import parse_platform
from agent.oci.reference import parse_reference
from agent.spec.fields import Fields, read_pairs, read_texts
from agent.spec.limits import read_ulimits
from agent.spec.maps import read_labels, read_map
from agent.spec.model import DEFAULT_SHM_SIZE, INLINE
from agent.spec.reading import show_name
from agent.spec.tree import Mapping, Node, Scalar, describe

_NETWORKS = frozenset({"default", "none", "host"})
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\Z", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z", re.ASCII)
_KINDS = {
    "cache_from": "IMAGE, type=registry,ref=IMAGE and type=local,src=/DIRECTORY are",
    "cache_to": "type=inline and type=local,dest=/DIRECTORY are",
}
_NEVER = {
    "privileged": "steps of a build never run with more rights than a container's",
    "provenance": "attestations are not made",
    "sbom": "attestations are not made",
}


def read_options(fields: Fields) -> dict[str, Any]:
    """The fields of ``spec.model.Build`` for them."""
    _refuse(fields)
    size = fields.size("shm_size")
    return {
        "tags": tuple(text for node, text in fields.texts("tags") if _is_name(fields, node, text)),
        "labels": read_labels(fields.reading, fields.node_of("labels"), fields.at("labels")),
        "platforms": tuple(text for node, text in fields.texts("platforms") if _is_platform(fields, node, text)),
        "no_cache": bool(fields.boolean("no_cache")),
        "pull": bool(fields.boolean("pull")),
        "cache_from": tuple(_read_caches(fields, "cache_from", "src")),
        "cache_to": _read_cache_to(fields),
        "network": fields.choice("network", _NETWORKS) or "default",
        "extra_hosts": tuple(_read_hosts(fields)),
        "shm_size": DEFAULT_SHM_SIZE if size is None else size,
        "ulimits": read_ulimits(fields.reading, fields.node_of("ulimits"), fields.at("ulimits")),
        "ssh": _read_ssh(fields),
    }


def _refuse(fields: Fields) -> None:
    """Of what no build can have, saying that it is not wanted is fine."""
    for name, why in _NEVER.items():
        if fields.node_of(name) is not None and fields.text(name) not in ("false", "False", "no", "off"):
            fields.complain(name, f"{why}: remove it")
    if fields.text("isolation") not in (None, "", "default"):
        fields.complain("isolation", "only default is there on Linux: remove it")


def _is_name(fields: Fields, node: Node, text: str) -> bool:
    try:
        plain = parse_reference(text).digest is None
    except HoldfastError:
        plain = False
    if not plain:
        fields.reading.complain(node, f"{fields.at('tags')}: {show_name(node, text)} is no name for an image")
    return plain


def _is_platform(fields: Fields, node: Node, text: str) -> bool:
    if parse_platform(text) is None:
        fields.reading.complain(node, f"{fields.at('platforms')}: {show_name(node, text)} is no platform")
        return False
    return True


def _read_caches(fields: Fields, name: str, place: str) -> list[str]:
    """Directories of the host: ``type=local,src=/PATH``, outside of the state directory, which builds must not
    change. Layers are also taken from images: ``type=registry,ref=IMAGE``, or only ``IMAGE``."""
    found: list[str] = []
    for node, text in fields.texts(name):
        options = dict(part.partition("=")[::2] for part in text.split(","))
        if name == "cache_from" and (options.get("type") == "registry" or "=" not in text):
            found += _read_image(fields, node, text, options)
            continue
        path, known = options.get(place, ""), options.keys() <= {"type", place, "mode"}
        if options.get("type") != "local" or not known or options.get("mode", "max") != "max":
            fields.reading.complain(
                node, f"{fields.at(name)}: only {_KINDS[name]} supported (and mode=max, the default)"
            )
        elif not path.startswith("/") or fields.reading.is_inside(fields.reading.resolve_path(path)):
            fields.reading.complain(
                node, f"{fields.at(name)}: {place} must be an absolute path outside of the state directory"
            )
        else:
            found.append(posixpath.normpath(path))
    return found


def _read_cache_to(fields: Fields) -> str | None:
    """One directory, or ``type=inline``: into the image itself."""
    written = [text for _, text in fields.texts("cache_to")]
    if len(written) > 1:
        fields.complain("cache_to", "only one directory can be written, or only type=inline")
        return None
    return INLINE if written == ["type=inline"] else next(iter(_read_caches(fields, "cache_to", "dest")), None)


def _read_image(fields: Fields, node: Node, text: str, options: dict[str, str]) -> list[str]:
    reference = options.get("ref", "") if "=" in text else text
    try:
        parse_reference(reference)
        known = "=" not in text or options.keys() <= {"type", "ref"}
    except HoldfastError:
        known = False
    if not known:
        fields.reading.complain(
            node, f"{fields.at('cache_from')}: {show_name(node, text)} is no image: IMAGE, or type=registry,ref=IMAGE"
        )
    return [str(parse_reference(reference))] if known else []


def _read_hosts(fields: Fields) -> list[tuple[str, str]]:
    """``extra_hosts``: a mapping, or a list of NAME=ADDRESS or NAME:ADDRESS."""
    node = fields.node_of("extra_hosts")
    path = fields.at("extra_hosts")
    pairs: list[tuple[Node, str, str]] = []
    if isinstance(node, Mapping):
        for key, value in read_pairs(fields.reading, node, path):
            pairs += [(item, key.source, text) for item, text in read_texts(fields.reading, value, path, single=True)]
    else:
        for item, text in fields.texts("extra_hosts"):
            name, _, address = text.partition("=") if "=" in text else text.partition(":")
            pairs.append((item, name, address))
    return [(name, address) for item, name, text in pairs if (address := _read_address(fields, item, name, text))]


def _read_address(fields: Fields, node: Node, name: str, text: str) -> str:
    try:
        address = str(ipaddress.ip_address(text.strip().removeprefix("[").removesuffix("]")))
    except ValueError:
        address = ""
    if not address or not _HOST.match(name):
        fields.reading.complain(
            node, f"{fields.at('extra_hosts')}: {show_name(node, f'{name}={text}')} is not NAME=ADDRESS"
        )
        return ""
    return address


def _read_ssh(fields: Fields) -> dict[str, str]:
    """``ssh``: ids, each with the socket of an ssh agent."""
    node = fields.node_of("ssh")
    path = fields.at("ssh")
    if isinstance(node, Scalar):
        fields.complain("ssh", f"must be a list or a mapping, not {describe(node)}: - default=/PATH/OF/AGENT.SOCKET")
        return {}
    found: dict[str, str] = {}
    for name, (where, value) in (read_map(fields.reading, node, path) if node is not None else {}).items():
        if not _ID.match(name) or not (value or "").startswith("/"):
            fields.reading.complain(
                where,
                f"{path}: must be ID=/PATH, with the path of an ssh agent's socket on this host",
            )
        else:
            found[name] = value or ""
    return found
