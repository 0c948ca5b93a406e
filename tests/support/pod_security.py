"""The restricted Pod Security Standard as a check on a pod spec.

Written from https://kubernetes.io/docs/concepts/security/pod-security-standards/ (baseline and restricted, Linux).
"""

from collections.abc import Iterator
from typing import Any, Final

VOLUME_TYPES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SAFE_SYSCTLS: Final = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
    }
)
UNPRIVILEGED: Final[dict[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""A container's securityContext that the restricted standard takes."""
SELINUX_TYPES: Final = frozenset({None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
SECCOMP_TYPES: Final = frozenset({"RuntimeDefault", "Localhost"})


def find_violations(pod: dict[str, Any]) -> list[str]:
    """Return what the restricted standard forbids in the pod spec ``pod``."""
    return [*_find_in_pod(pod), *(fault for container in _containers(pod) for fault in _find_in_container(container, pod))]


def _containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod.get(kind, ())


def _find_in_pod(pod: dict[str, Any]) -> Iterator[str]:
    context = pod.get("securityContext", {})
    yield from (f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))
    yield from (f"sysctl {each['name']}" for each in context.get("sysctls", ()) if each["name"] not in SAFE_SYSCTLS)
    for volume in pod.get("volumes", ()):
        yield from (f"volume {volume['name']} is a {kind}" for kind in volume.keys() - VOLUME_TYPES - {"name"})


def _find_in_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own, shared = container.get("securityContext", {}), pod.get("securityContext", {})
    name = container["name"]
    capabilities = own.get("capabilities", {})
    selinux = own.get("seLinuxOptions", shared.get("seLinuxOptions", {}))
    checks = {
        "privileged": not own.get("privileged"),
        "host process": not own.get("windowsOptions", shared.get("windowsOptions", {})).get("hostProcess"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "runAsNonRoot": own.get("runAsNonRoot", shared.get("runAsNonRoot")) is True,
        "runAsUser": own.get("runAsUser", shared.get("runAsUser")) != 0,
        "seccompProfile": own.get("seccompProfile", shared.get("seccompProfile", {})).get("type") in SECCOMP_TYPES,
        "capabilities.drop": "ALL" in capabilities.get("drop", ()),
        "capabilities.add": set(capabilities.get("add", ())) <= {"NET_BIND_SERVICE"},
        "procMount": own.get("procMount", "Default") == "Default",
        "hostPort": not any(port.get("hostPort") for port in container.get("ports", ())),
        "appArmorProfile": own.get("appArmorProfile", shared.get("appArmorProfile", {})).get("type") != "Unconfined",
        "seLinuxOptions": selinux.get("type") in SELINUX_TYPES and not selinux.get("user") and not selinux.get("role"),
    }
    yield from (f"container {name}: {check}" for check, kept in checks.items() if not kept)
