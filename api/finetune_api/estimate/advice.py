"""What would make a run fit: which change of which field."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from finetune_api.estimate.memory import Estimate, compute_estimate
from finetune_api.estimate.shape import ModelShape
from finetune_api.quantity import parse_quantity
from finetune_api.spec import FineTuneJobSpec, ResourcesSpec
from finetune_api.spec.adapter import RANK_TYPES
from finetune_api.spec.sharding import DIVIDED_OPTIMIZERS

_SHARDING: Final = "training.sharding"
_Fields = tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the specification by which the run fits."""

    fields: _Fields
    """Paths below ``spec`` and their new values."""
    total_bytes: int
    """What the run then needs."""
    keeps_result: bool
    """The run computes the same, only slower or with less room to spare."""

    def __str__(self) -> str:
        """Return the change as ``training.maxLength: 1024``."""
        return ", ".join(f"{path}: {str(value).lower() if isinstance(value, bool) else value}" for path, value in self.fields)


def compute_changes_that_fit(shape: ModelShape, spec: FineTuneJobSpec, limit_bytes: int, teacher: ModelShape | None = None) -> list[Change]:
    """Return the smallest single changes by which the run fits into ``limit_bytes``, those that keep the result first.

    Empty where it fits already, or where no one change is enough.
    """
    if compute_estimate(shape, spec, teacher).total_bytes <= limit_bytes:
        return []
    found: dict[tuple[str, ...], Change] = {}
    enough: list[_Fields] = []
    for fields, keeps in _candidates(spec):
        kind = tuple(path for path, _ in fields)
        if kind in found or any(_is_part(less, fields) for less in enough):
            continue  # a smaller change of the same fields is enough, or a part of this one
        try:
            estimate: Estimate = compute_estimate(shape, _change(spec, fields), teacher)
        except ValueError:
            continue  # the rules refuse it: prefix tuning has no checkpointing, say, and a packed base is not quantised again
        if estimate.total_bytes <= limit_bytes:
            found[kind] = Change((*fields, *_ask_node(spec, estimate)), estimate.total_bytes, keeps)
            enough.append(fields)
    return sorted(found.values(), key=lambda change: not change.keeps_result)


def _is_part(less: _Fields, fields: _Fields) -> bool:
    """Return whether ``fields`` change all that ``less`` does, and more; of how the model is divided, whether they divide more of it."""
    return set(less) <= set(fields) or (_SHARDING in dict(less) and dict(less).keys() <= dict(fields).keys())


def _ask_node(spec: FineTuneJobSpec, estimate: Estimate) -> _Fields:
    """Return what a run must ask for of its nodes' memory where parts of the model lie there: so much more than a run does by default."""
    if not estimate.node_bytes:
        return ()
    needed = parse_quantity(ResourcesSpec().memory) + estimate.node_bytes
    return (("resources.memory", f"{math.ceil(needed / 2**30)}Gi"),) if parse_quantity(spec.resources.memory) < needed else ()


def _candidates(spec: FineTuneJobSpec) -> Iterator[tuple[_Fields, bool]]:
    """Yield changes, smaller ones before larger ones of the same fields; the second value says whether the result stays the same."""
    training, quantization = spec.training, spec.method.quantization
    if not training.gradient_checkpointing:
        yield (("training.gradientCheckpointing", True),), True
    batch, steps = training.per_device_batch_size, training.gradient_accumulation_steps
    while batch > 1 and batch % 2 == 0:
        batch, steps = batch // 2, steps * 2
        yield (("training.perDeviceBatchSize", batch), ("training.gradientAccumulationSteps", steps)), True
        if not training.gradient_checkpointing:
            both = (
                ("training.gradientCheckpointing", True),
                ("training.perDeviceBatchSize", batch),
                ("training.gradientAccumulationSteps", steps),
            )
            yield both, True
    if training.gradient_checkpointing and not training.activation_offloading:
        yield (("training.activationOffloading", True),), True
    if spec.resources.gpus * spec.resources.nodes > 1:
        yield from _divided(spec)
    if quantization.type != "nf4" and spec.method.adapter.type != "none":
        yield (("method.quantization.type", "nf4"),), False
    length = training.max_length
    while length > 256:
        length //= 2
        yield (("training.maxLength", length),), False
    if training.optimizer in ("paged_adamw_32bit", "adamw_torch", "adamw_torch_fused"):
        yield (("training.optimizer", "paged_adamw_8bit"),), False
    rank = spec.method.adapter.r if spec.method.adapter.type in RANK_TYPES else 0
    while rank > 8:
        rank //= 2
        yield (("method.adapter.r", rank),), False
    if training.per_device_batch_size > 1 and training.max_length > 256:
        yield (("training.perDeviceBatchSize", 1), ("training.maxLength", max(256, training.max_length // 4))), False


def _divided(spec: FineTuneJobSpec) -> Iterator[tuple[_Fields, bool]]:
    """Yield changes that divide more of the run over its GPUs, or hold the parts in the node's memory; those that cost the least first."""
    training, needed = spec.training, DIVIDED_OPTIMIZERS[0]
    whole = spec.method.adapter.type == "none"
    other = whole and training.optimizer not in DIVIDED_OPTIMIZERS
    optimizer: _Fields = (("training.optimizer", needed),) if other else ()
    ways = ("none", "gradients", "full") if whole else ("none", "full")
    more: list[_Fields] = [((_SHARDING, way),) for way in ways[ways.index(training.sharding) + 1 :]]
    if not training.shard_offloading:
        offloading = ("training.shardOffloading", True)
        more += [(*more[-1], offloading) if more else (offloading,)]
    for fields in more:
        yield (*fields, *optimizer), not other
    batch, steps = training.per_device_batch_size, training.gradient_accumulation_steps
    while batch > 1 and batch % 2 == 0:
        batch, steps = batch // 2, steps * 2
        smaller = ("training.perDeviceBatchSize", batch), ("training.gradientAccumulationSteps", steps)
        for fields in more:
            yield (*fields, *optimizer, *smaller), not other


def _change(spec: FineTuneJobSpec, fields: tuple[tuple[str, object], ...]) -> FineTuneJobSpec:
    changed = spec.model_dump(mode="json", by_alias=True)
    for path, value in fields:
        *parents, last = path.split(".")
        target = changed
        for parent in parents:
            target = target[parent]
        target[last] = value
    return FineTuneJobSpec.model_validate(changed)
