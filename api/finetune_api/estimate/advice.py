"""What would make a run fit: which change of which field."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_api.estimate.memory import Estimate, compute_estimate
from finetune_api.estimate.shape import ModelShape
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.adapter import RANK_TYPES
from finetune_api.spec.sharding import DIVIDED_OPTIMIZERS


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the specification by which the run fits."""

    fields: tuple[tuple[str, object], ...]
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
    for fields, keeps in _candidates(spec):
        kind = tuple(path for path, _ in fields)
        if kind in found or any(set(change.fields) <= set(fields) for change in found.values()):
            continue  # a smaller change of the same fields is enough, or a part of this one
        try:
            estimate: Estimate = compute_estimate(shape, _change(spec, fields), teacher)
        except ValueError:
            continue  # the rules refuse it: prefix tuning has no checkpointing, say, and a packed base is not quantised again
        if estimate.total_bytes <= limit_bytes:
            found[kind] = Change(fields, estimate.total_bytes, keeps)
    return sorted(found.values(), key=lambda change: not change.keeps_result)


def _candidates(spec: FineTuneJobSpec) -> Iterator[tuple[tuple[tuple[str, object], ...], bool]]:
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
    if spec.resources.gpus * spec.resources.nodes > 1 and training.sharding == "none":
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


def _divided(spec: FineTuneJobSpec) -> Iterator[tuple[tuple[tuple[str, object], ...], bool]]:
    """Yield changes that divide the base model over the run's GPUs, those that change the least first."""
    divided = ("training.sharding", "full")
    training, needed = spec.training, DIVIDED_OPTIMIZERS[0]
    whole = spec.method.adapter.type == "none" and training.optimizer not in DIVIDED_OPTIMIZERS
    others: tuple[tuple[str, object], ...] = (("training.optimizer", needed),) if whole else ()
    yield (divided, *others), not whole
    batch, steps = training.per_device_batch_size, training.gradient_accumulation_steps
    while batch > 1 and batch % 2 == 0:
        batch, steps = batch // 2, steps * 2
        yield (divided, *others, ("training.perDeviceBatchSize", batch), ("training.gradientAccumulationSteps", steps)), not whole


def _change(spec: FineTuneJobSpec, fields: tuple[tuple[str, object], ...]) -> FineTuneJobSpec:
    changed = spec.model_dump(mode="json", by_alias=True)
    for path, value in fields:
        *parents, last = path.split(".")
        target = changed
        for parent in parents:
            target = target[parent]
        target[last] = value
    return FineTuneJobSpec.model_validate(changed)
