"""Runs of several pods, as tests drive them on a real API server."""

from typing import Any, Final

from finetune_api.names import INDEX_LABEL
from tests.support.live_run import LiveRun, Object, wait_until
from tests.support.world import build_summary

GROUP: Final[dict[str, Any]] = {"resources": {"gpus": 1, "nodes": 2}}
"""A run of two pods with a GPU each."""


def wait_group(run: LiveRun, but: set[str], seconds: float = 90) -> dict[int, Object]:
    """Wait until both pods of a generation run, none of them one of ``but``, and return them by number."""

    def look() -> dict[int, Object] | None:
        alive = [pod for pod in run.pods() if pod["status"].get("phase") == "Running" and pod["metadata"]["name"] not in but]
        found = {int(pod["metadata"]["labels"][INDEX_LABEL]): pod for pod in alive}
        return found if len(found) == 2 else None

    return wait_until(look, f"both pods of {run.name} run", seconds, run.explain)


def end(run: LiveRun, pod: Object, code: int, *, disrupted: bool = False) -> None:
    """Let the trainer of a pod leave; the first one of a run that is done says so."""
    summary = build_summary() if code == 0 and pod["metadata"]["labels"][INDEX_LABEL] == "0" else ""
    run.node.end(run.namespace, pod["metadata"]["name"], code, summary, disrupted=disrupted)


def names(pods: dict[int, Object]) -> set[str]:
    """Return the pods' names."""
    return {pod["metadata"]["name"] for pod in pods.values()}
