"""The CRDs on an API server."""

from pathlib import Path
from typing import Final

from finetune_devcluster import Cluster
from tests.support.live_run import Object, wait_until

CRD_FOLDER: Final = Path(__file__).parents[2] / "crds"
PLURALS: Final = ("finetunejobs", "finetunesweeps")
_GROUP: Final = "/apis/finetune.dev/v1alpha1"
_PATH: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install_crds(cluster: Cluster) -> None:
    """Apply the CRDs, and wait until the API server serves them and kubectl knows them.

    Three things that come one after the other: the API server says of a definition that it is established, answers requests for its
    kind, and names the kind where clients look for what there is.
    """
    for plural in PLURALS:
        cluster.kubectl("apply", "--server-side", "-f", str(CRD_FOLDER / f"{plural}.yaml"))
    # By hand: `kubectl wait` takes a CRD that was just made, and has no conditions yet, for an error.
    for plural in PLURALS:
        wait_until(lambda plural=plural: _is_established(cluster, plural), f"{plural} are established")  # type: ignore[misc]
        wait_until(lambda plural=plural: cluster.client.is_ready(f"{_GROUP}/{plural}"), f"{plural} are served")  # type: ignore[misc]
    wait_until(lambda: _are_known(cluster), f"kubectl knows {' and '.join(PLURALS)}")


def _are_known(cluster: Cluster) -> bool:
    names = cluster.kubectl("api-resources", "--api-group=finetune.dev", "--output=name").split()
    return {f"{plural}.finetune.dev" for plural in PLURALS} <= set(names)


def _is_established(cluster: Cluster, plural: str) -> bool:
    body: Object = cluster.client.request("GET", f"{_PATH}/{plural}.finetune.dev")
    conditions = body.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
