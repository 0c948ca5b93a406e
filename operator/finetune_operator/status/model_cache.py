"""How full the cache of base models is, as the fillers of a run's pods have left it."""

from collections.abc import Sequence

from pydantic import ValidationError

from finetune_api.cache_usage import CacheUsage, ModelCacheStatus
from finetune_api.names import MODEL_CACHE_CONTAINER
from finetune_operator.objects import Object, parse_time


def compute_cache_status(previous: ModelCacheStatus | None, claim: str | None, pods: Sequence[Object]) -> ModelCacheStatus | None:
    """Return what the newest pod's filler found, or what is known already where none has told since.

    :param claim: the cache's claim; None of a run without one.
    :param pods: the run's pods, oldest first.
    """
    if claim is None:
        return previous
    for pod in reversed(pods):
        for container in pod.get("status", {}).get("initContainerStatuses") or ():
            ended = (container.get("state") or {}).get("terminated") if container["name"] == MODEL_CACHE_CONTAINER else None
            if ended is None:
                continue
            try:
                usage = CacheUsage.model_validate_json(ended.get("message") or "")
            except ValidationError:
                continue  # of an older image, or cut off: it is only a figure
            return ModelCacheStatus(**usage.model_dump(), claim=claim, measured_time=parse_time(ended.get("finishedAt")))
    return previous
