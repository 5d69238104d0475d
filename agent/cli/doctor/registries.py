"""Do the registries that the desired state names answer, and which settings of registries are less than safe?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from agent.cli.doctor.finding import Finding, Host, Verdict
from agent.errors import HoldfastError
from agent.image.config import RegistryConfig
from agent.image.proxies import read_proxies

_SECONDS = 4.0
_UNREACHABLE = "check name, network, proxy and certificates; images that are local already still run"


def check_registries(host: Host) -> tuple[Finding, ...]:
    """What is unsafe, and one finding for each registry of the state directory, if one was given."""
    try:
        proxies = read_proxies(os.environ)
    except HoldfastError as error:
        return (Finding("registry settings", Verdict.FAIL, error.message, error.hint or _UNREACHABLE),)
    config = RegistryConfig(
        registries=host.registries,
        proxies=proxies,
        connect_timeout=_SECONDS,
        read_timeout=_SECONDS,
        slow_seconds=_SECONDS,
    )
    settings = tuple(check_settings(config))
    if host.state is None or any(finding.verdict is Verdict.FAIL for finding in settings):
        return settings
    registries = sorted(set(_find_registries(host)))
    with ThreadPoolExecutor(max_workers=8) as pool:
        return (*settings, *pool.map(lambda name: check_registry(name, config), registries))


def check_settings(config: RegistryConfig) -> Iterator[Finding]:
    """The registries file and the files with secrets."""
    from agent.image.registry.unsafe import describe_unsafe

    name = "registry settings"
    try:
        unsafe = describe_unsafe(config)
    except HoldfastError as error:
        yield Finding(name, Verdict.FAIL, error.message, "correct the file; the agent does not start with it")
        return
    for sentence in unsafe:
        yield Finding(name, Verdict.WARN, sentence, "give up what is not needed")
    if not unsafe:
        yield Finding(name, Verdict.OK, "nothing gives up protection")


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


def check_registry(registry: str, config: RegistryConfig) -> Finding:
    """Ask for the API's root, as a pull would: 200 and 401 both mean that it is there."""
    from agent.image.registry.login import ask_root

    name = f"registry {registry}"
    try:
        status = ask_root(registry, config)
    except HoldfastError as error:
        return Finding(name, Verdict.WARN, f"does not answer: {error.message}", error.hint or _UNREACHABLE)
    if status in (200, 401):
        return Finding(name, Verdict.OK, "answers" if status == 200 else "answers, wants credentials")
    return Finding(name, Verdict.WARN, f"answers /v2/ with status {status}", "is that a registry?")
