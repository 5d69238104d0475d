"""Do the registries that the desired state names answer?"""

from __future__ import annotations

import http.client
import ipaddress
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from agent.cli.doctor.finding import Finding, Host, Verdict
from agent.errors import HoldfastError

_SECONDS = 4.0
_HUB = ("docker.io", "registry-1.docker.io")


def check_registries(host: Host) -> tuple[Finding, ...]:
    """One finding a registry; none when no state directory was given."""
    if host.state is None:
        return ()
    registries = sorted(set(_find_registries(host)))
    with ThreadPoolExecutor(max_workers=8) as pool:
        return tuple(pool.map(check_registry, registries))


def _find_registries(host: Host) -> Iterator[str]:
    from agent.oci.reference import parse_reference
    from agent.source.directory import scan_directory

    assert host.state is not None
    for files in scan_directory(host.state, None).apps.values():
        if files.app is None:
            continue
        references = [policy.reference for policy in files.app.images]
        references += [service.image for service in files.app.services.values() if service.image and not service.build]
        for text in references:
            try:
                yield parse_reference(text).registry
            except HoldfastError:
                continue


def check_registry(registry: str) -> Finding:
    """Ask for the API's root: 200 and 401 both mean that it is there."""
    name = f"registry {registry}"
    try:
        status = _ask(registry)
    except (OSError, http.client.HTTPException) as error:
        advice = "check name, network, proxy and certificates; images that are local already still run"
        return Finding(name, Verdict.WARN, f"does not answer: {error}", advice)
    if status in (200, 401):
        return Finding(name, Verdict.OK, "answers" if status == 200 else "answers, wants credentials")
    return Finding(name, Verdict.WARN, f"answers /v2/ with status {status}", "is that a registry?")


def _ask(registry: str) -> int:
    address = _HUB[1] if registry == _HUB[0] else registry
    connection: http.client.HTTPConnection
    if _is_loopback(address):
        connection = http.client.HTTPConnection(address, timeout=_SECONDS)
    else:
        connection = http.client.HTTPSConnection(address, timeout=_SECONDS, context=ssl.create_default_context())
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status
    finally:
        connection.close()


def _is_loopback(address: str) -> bool:
    name = address.rpartition(":")[0] if address.rpartition(":")[2].isdigit() else address
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
