"""The CRDs on an API server."""

from pathlib import Path
from typing import Final

from finetune_devcluster import Cluster
from tests.support.live_run import Object, wait_until

CRD_FOLDER: Final = Path(__file__).parents[2] / "crds"
PLURALS: Final = ("finetunejobs", "finetunesweeps")
_PATH: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install_crds(cluster: Cluster) -> None:
    """Apply the CRDs, and wait until the API server serves them."""
    for plural in PLURALS:
        cluster.kubectl("apply", "--server-side", "-f", str(CRD_FOLDER / f"{plural}.yaml"))
    # By hand: `kubectl wait` takes a CRD that was just made, and has no conditions yet, for an error.
    for plural in PLURALS:
        wait_until(lambda plural=plural: _is_established(cluster, plural), f"{plural} are served")  # type: ignore[misc]


def _is_established(cluster: Cluster, plural: str) -> bool:
    body: Object = cluster.client.request("GET", f"{_PATH}/{plural}.finetune.dev")
    conditions = body.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
