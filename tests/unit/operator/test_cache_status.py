"""How full a cache of base models is: from its filler's last words to status and metrics."""

import pytest
from prometheus_client import CollectorRegistry

from finetune_api.cache_usage import CacheUsage, ModelCacheStatus
from finetune_api.names import MODEL_CACHE_CONTAINER
from finetune_operator.metrics.runs import RunCollector
from finetune_operator.status.model_cache import compute_cache_status
from tests.support.manifests import Manifest
from tests.support.world import NOW, build_finetunejob

USAGE = CacheUsage(models=3, used_bytes=45 * 2**30, partial_bytes=7, free_bytes=12 * 2**30, total_bytes=100 * 2**30)


def _pod(message: str | None, finished: str = "2026-01-02T03:04:05Z", container: str = MODEL_CACHE_CONTAINER) -> Manifest:
    state = {"running": {}} if message is None else {"terminated": {"exitCode": 0, "message": message, "finishedAt": finished}}
    return {"metadata": {"name": "pod"}, "status": {"initContainerStatuses": [{"name": container, "state": state}]}}


WORDS = USAGE.model_dump_json(by_alias=True)
TOLD = _pod(WORDS)
KNOWN = ModelCacheStatus(**USAGE.model_dump(), claim="models", measured_time=NOW)


def test_the_newest_filler_s_last_words_count() -> None:
    older = _pod(USAGE.model_copy(update={"models": 2}).model_dump_json(by_alias=True))
    assert compute_cache_status(None, "models", [older, TOLD]) == KNOWN
    assert compute_cache_status(None, "models", [TOLD, _pod(None)]) == KNOWN, "the newest has not looked yet"


@pytest.mark.parametrize(
    "pod",
    [
        _pod(None),
        _pod(""),
        _pod("no JSON"),
        _pod('{"models": -1}'),
        _pod(WORDS, container="other"),
        {"metadata": {}},
    ],
    ids=["under way", "an older image", "no JSON", "not a count", "another container", "no status"],
)
def test_what_tells_nothing_changes_nothing(pod: Manifest) -> None:
    assert compute_cache_status(None, "models", [pod]) is None
    assert compute_cache_status(KNOWN, "models", [pod]) == KNOWN


def test_a_run_without_a_cache_has_none() -> None:
    assert compute_cache_status(None, None, [TOLD]) is None


def test_metrics_show_each_claim_as_the_newest_run_found_it() -> None:
    bodies = []
    for number, (free, time) in enumerate(((5, "2026-01-02T03:04:05Z"), (4, "2026-01-03T03:04:05Z"), (3, "2026-01-01T03:04:05Z"))):
        cache = {"claim": "models", "models": 1, "usedBytes": 1, "freeBytes": free, "totalBytes": 9, "measuredTime": time}
        bodies.append(build_finetunejob(status={"phase": "Succeeded", "modelCache": cache}, uid=f"run-{number}"))
    registry = CollectorRegistry()
    registry.register(RunCollector(lambda: bodies, lambda: NOW))
    labels = {"namespace": "team-a", "claim": "models"}
    assert registry.get_sample_value("finetune_model_cache_free_bytes", labels) == 4
    assert registry.get_sample_value("finetune_model_cache_total_bytes", labels) == 9
