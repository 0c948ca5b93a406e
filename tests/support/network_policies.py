"""What NetworkPolicies let through, as Cyclonus judges it: the oracle of network plugins' conformance tests."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_devcluster.binaries import ensure_binaries


@dataclass(frozen=True)
class Peer:
    """An end of a connection: a pod where it has a namespace, else an address outside of what policies can select."""

    ip: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def as_traffic(self) -> dict[str, Any]:
        """Return it as Cyclonus reads it. A namespace has the label that the API server gives to each."""
        if not self.namespace:
            return {"IP": self.ip}
        names = {"kubernetes.io/metadata.name": self.namespace}
        return {"IP": self.ip, "Internal": {"PodLabels": dict(self.labels), "NamespaceLabels": names, "Namespace": self.namespace}}


@dataclass(frozen=True)
class Attempt:
    """A connection that somebody tries to make."""

    source: Peer
    target: Peer
    port: int
    protocol: str = "TCP"


def judge(policies: Sequence[Mapping[str, Any]], attempts: Sequence[Attempt]) -> list[bool]:
    """Return of each attempt whether ``policies``, which are all of the cluster, let it through."""
    asked = [
        {
            "Source": each.source.as_traffic(),
            "Destination": each.target.as_traffic(),
            "ResolvedPort": each.port,
            "Protocol": each.protocol,
        }
        for each in attempts
    ]
    program = ensure_binaries(["network-policies"])["network-policies"]
    question = json.dumps({"Policies": list(policies), "Attempts": asked})
    spoken = subprocess.run([program], input=question, capture_output=True, text=True, timeout=60, check=False)
    assert spoken.returncode == 0, spoken.stderr
    return [word == "true" for word in spoken.stdout.split()]
