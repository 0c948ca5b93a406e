"""Writing into a manifest what its run is estimated to need of a GPU."""

import copy
import math
from typing import Any

from finetune_api.estimate import compute_estimate
from finetune_api.resource import parse_manifest
from finetune_cli.model_shapes import read_shapes


def build_fitted(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the valid ``manifest`` with the estimate as `resources.minGpuMemory`, in whole MiB.

    One that says it itself, trains on the CPU or claims its GPUs by template is returned as it is.

    :raises ShapeUnknown: the model, or what is done with it, is not one that can be estimated.
    :raises ConfigUnavailable: the model's config.json can't be read from here.
    """
    spec = parse_manifest(manifest).spec
    resources = spec.resources
    if not resources.gpus or resources.min_gpu_memory is not None or resources.gpu_claim_template is not None:
        return manifest
    shape, teacher = read_shapes(spec)
    needed = compute_estimate(shape, spec, teacher).total_bytes
    fitted = copy.deepcopy(manifest)
    fitted["spec"]["resources"] = {**(fitted["spec"].get("resources") or {}), "minGpuMemory": f"{math.ceil(needed / 2**20)}Mi"}
    return fitted
