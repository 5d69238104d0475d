"""Every key that Compose knows, by the kind of mapping it stands in: those read here, and those that are for later.

Source: https://github.com/compose-spec/compose-spec/blob/main/schema/compose-spec.json, and ``images`` of Holdfast.
"""

from __future__ import annotations

import difflib

from agent.values import frozen

_NEAREST_LENGTH = 64
_NEAR = 0.65


@frozen
class Keys:
    """``read``: what this version understands; ``later``: what Compose has besides."""

    read: frozenset[str]
    later: frozenset[str] = frozenset()

    def suggest(self, key: str) -> str:
        """The end of a message about an unknown key: the key that was meant, or nothing when none is much like it or
        the one that is cannot be used yet."""
        known = sorted(self.read | self.later)
        near = difflib.get_close_matches(key[:_NEAREST_LENGTH].lower(), known, n=1, cutoff=_NEAR)
        return f"; the nearest known one is {near[0]!r}" if near and near[0] in self.read else ""


def _keys(read: str, later: str = "") -> Keys:
    return Keys(frozenset(read.split()), frozenset(later.split()))


APP = _keys("name services networks volumes images secrets", "version include models configs")
SERVICE = _keys(
    """build cap_add cap_drop command depends_on deploy entrypoint env_file environment healthcheck hostname image init
    labels networks platform ports pull_policy read_only restart scale security_opt shm_size stop_grace_period
    stop_signal sysctls tmpfs ulimits user volumes working_dir""",
    """annotations attach blkio_config cgroup cgroup_parent configs container_name cpu_count cpu_percent cpu_period
    cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec develop device_cgroup_rules devices
    dns dns_opt dns_search domainname expose extends external_links extra_hosts gpus group_add ipc isolation label_file
    links logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit models network_mode
    oom_kill_disable oom_score_adj pid pids_limit post_start pre_stop privileged profiles provider
    pull_refresh_after runtime secrets stdin_open storage_opt tty use_api_socket userns_mode uts volumes_from""",
)
BUILD = _keys(
    """additional_contexts args cache_from cache_to context dockerfile dockerfile_inline extra_hosts isolation labels
    network no_cache platforms privileged provenance pull sbom secrets shm_size ssh tags target ulimits""",
    "entitlements",
)
BUILD_SECRET = _keys("source target", "gid mode uid")
SECRET = _keys("environment file name", "driver driver_opts external labels template_driver")
DEPLOY = _keys("replicas resources restart_policy rollback_config update_config", "endpoint_mode labels mode placement")
UPDATE_CONFIG = _keys("delay failure_action max_failure_ratio monitor order parallelism")
HOLDFAST_APP = _keys("apply group notify windows")
NOTIFY_FILE = _keys("notify")
NOTIFY = _keys("exec format on period secret_file webhook")
NOTIFY_OWN = _keys("apps exec format on period secret_file webhook")
HOLDFAST_WINDOW = _keys("allow deny duration timezone")
HOLDFAST_SERVICE = _keys("drain probes rollout")
ROLLOUT = _keys("canary deadline")
CANARY = _keys("pause steps")
PROBES = _keys("liveness readiness startup")
PROBE = _keys("exec failure_threshold http initial_delay period success_threshold tcp timeout")
HTTP_CHECK = _keys("headers host path port scheme")
TCP_CHECK = _keys("port")
PROBE_COMMAND = _keys("command")
RESOURCES = _keys("limits reservations")
RESERVATIONS = _keys("memory", "cpus devices generic_resources")
LIMITS = _keys("cpus memory pids")
RESTART_POLICY = _keys("condition delay max_attempts window")
HEALTHCHECK = _keys("disable interval retries start_interval start_period test timeout")
DEPENDENCY = _keys("condition required restart")
SERVICE_NETWORK = _keys(
    "aliases", "driver_opts gw_priority interface_name ipv4_address ipv6_address link_local_ips mac_address priority"
)
PORT = _keys("app_protocol host_ip mode name protocol published target")
MOUNT = _keys("bind read_only source target tmpfs type volume", "consistency image")
MOUNT_BIND = _keys("create_host_path propagation", "recursive selinux")
MOUNT_VOLUME = _keys("nocopy subpath", "labels")
MOUNT_TMPFS = _keys("mode size")
NETWORK = _keys("driver internal labels name", "attachable driver_opts enable_ipv4 enable_ipv6 external ipam")
VOLUME = _keys("driver labels name", "driver_opts external")
ENV_FILE = _keys("path required", "format")
ULIMIT = _keys("hard soft")
IMAGE_POLICY = _keys("reference name pull_policy")
SECURITY_OPTIONS = _keys(
    "no-new-privileges seccomp", "apparmor credentialspec label mask proc-opts systempaths unmask writable-cgroups"
)
CAPABILITIES = _keys(
    """AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH
    FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE
    NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE
    SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG WAKE_ALARM"""
)
ULIMITS = _keys("as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack")

HINTS = {
    "version": "Compose ignores it: remove the line",
    "mem_limit": "use deploy.resources.limits.memory",
    "mem_reservation": "use deploy.resources.reservations.memory",
    "cpus": "use deploy.resources.limits.cpus",
    "pids_limit": "use deploy.resources.limits.pids",
    "container_name": "containers are named app-service-number; use hostname or a network alias",
    "links": "services find each other by name; use depends_on for order",
    "entitlements": "builds get no rights beyond those of a container: remove it",
    "expose": "containers of one network reach all ports of each other: remove it",
}
"""What to do instead of some keys that are for later."""
