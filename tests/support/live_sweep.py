"""A FineTuneSweep on a real API server, as a test drives it."""

import json
from typing import Final

from finetune_api.progress import Metrics
from finetune_devcluster import Cluster
from tests.support.fake_node import FakeNode, Script
from tests.support.live_run import Object
from tests.support.manifests import Manifest, build_sweep_manifest, merge
from tests.support.world import build_summary

GROUP: Final = "/apis/finetune.dev/v1alpha1"


class LiveSweep:
    """A FineTuneSweep called `sweep`, in a namespace."""

    def __init__(self, cluster: Cluster, node: FakeNode, namespace: str) -> None:
        self.cluster, self.client, self.node, self.namespace = cluster, cluster.client, node, namespace
        self.path = f"{GROUP}/namespaces/{namespace}/finetunesweeps/sweep"

    def apply(self, spec: Manifest | None = None, *, dry_run: bool = False) -> Object:
        """Create it; ``spec`` is a merge patch on the minimal one."""
        manifest = merge(build_sweep_manifest(namespace=self.namespace), {"spec": spec or {}})
        query = "?dryRun=All&fieldValidation=Strict" if dry_run else ""
        created: Object = self.client.request("POST", self.path.rpartition("/")[0] + query, manifest)
        return created

    def will_end(self, name: str, loss: float) -> None:
        """Let the pod of a trial end with this loss on held-out data."""
        summary = build_summary(metrics=Metrics(loss=loss, eval_loss=loss))
        self.node.scripts[self.namespace, name] = Script(iter([(0, summary)]))

    @property
    def status(self) -> Object:
        """Its status."""
        status: Object = self.client.request("GET", self.path).get("status", {})
        return status

    def trials(self) -> dict[str, Object]:
        """Return the FineTuneJobs of its namespace, by name."""
        items = self.client.request("GET", f"{GROUP}/namespaces/{self.namespace}/finetunejobs")["items"]
        return {item["metadata"]["name"]: item for item in items}

    def explain(self) -> str:
        """Return what there is, for a test that fails."""
        return json.dumps([self.status, *(trial.get("status") for trial in self.trials().values())])
