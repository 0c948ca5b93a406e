"""The shared cache of base models in a trainer's pod: an init container fills it, the trainer can only read it."""

import copy
from typing import Any, Final

from finetune_api.names import ENV_PREFIX_MODEL, ENV_PREFIX_TEACHER, MODEL_CACHE_CONTAINER, MODEL_CACHE_ROOT
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uri import parse_uri

VOLUME: Final = "model-cache"
_PREFIXES: Final = (ENV_PREFIX_MODEL, ENV_PREFIX_TEACHER)
_SCRATCH: Final = ("work", "tmp")
"""Volumes that the filler shares with the trainer: what it found is handed over in the first."""

Manifest = dict[str, Any]


def uses_model_cache(spec: FineTuneJobSpec) -> bool:
    """True of a run with a model of a hub, whose commits never change; what lies elsewhere may be replaced without a trace."""
    distill = spec.method.distill
    uris = [spec.model.uri, *([distill.teacher.uri] if distill is not None else [])]
    return any(parse_uri(uri).scheme == "hf" for uri in uris)


def add_model_cache(pod: Manifest, claim: str) -> Manifest:
    """Return the pod spec with the volume claim ``claim`` as its model cache, filled before the trainer starts."""
    with_cache = copy.deepcopy(pod)
    (trainer,) = with_cache["containers"]
    filler = {
        "name": MODEL_CACHE_CONTAINER,
        "image": trainer["image"],
        "imagePullPolicy": trainer["imagePullPolicy"],
        "command": ["finetune-model-cache", "fill"],
        "env": copy.deepcopy(trainer["env"]),
        "envFrom": [source for source in trainer["envFrom"] if source["prefix"] in _PREFIXES],
        # The pod's need is the larger one of both, not the sum: this reserves nothing more, and quotas want every container to say.
        "resources": {part: _without_devices(trainer["resources"][part]) for part in ("requests", "limits")},
        "securityContext": copy.deepcopy(trainer["securityContext"]),
        "volumeMounts": [
            *(mount for mount in copy.deepcopy(trainer["volumeMounts"]) if mount["name"] in _SCRATCH),
            {"name": VOLUME, "mountPath": MODEL_CACHE_ROOT},
        ],
    }
    trainer["volumeMounts"].append({"name": VOLUME, "mountPath": MODEL_CACHE_ROOT, "readOnly": True})
    with_cache["volumes"].append({"name": VOLUME, "persistentVolumeClaim": {"claimName": claim}})
    return {**with_cache, "initContainers": [*with_cache.get("initContainers", []), filler]}


def _without_devices(amounts: Manifest) -> Manifest:
    return {name: amount for name, amount in amounts.items() if "/" not in name}
