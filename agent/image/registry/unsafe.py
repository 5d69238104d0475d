"""Settings of registries that give up protection, in words: for the log and for ``holdfast doctor``."""

from __future__ import annotations

import stat
from pathlib import Path

from agent.image.config import RegistryConfig
from agent.image.registry.registryfile import load_registries

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH


def describe_unsafe(config: RegistryConfig) -> tuple[str, ...]:
    """One sentence for each. Raises InvalidRegistriesFile."""
    registries = load_registries(config.registries)
    found = [f"{name} may be spoken to in plain HTTP (--insecure-registry)" for name in config.insecure_registries]
    found += registries.describe_unsafe()
    if config.registries is not None and _mode(config.registries) & _OTHERS_WRITE:
        found.append(f"{config.registries} can be written by others: chmod go-w {config.registries}")
    secrets = [config.docker_config, *(host.client_key for host in registries.hosts.values() if host.client_key)]
    if config.registries is not None and any(host.proxy and host.proxy.user for host in registries.hosts.values()):
        secrets.append(config.registries)
    found += [f"{path} can be read by others: chmod 600 {path}" for path in secrets if _mode(path) & _OTHERS_READ]
    return tuple(found)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
