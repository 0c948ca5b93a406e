"""The kinds of resource that there are, and what is particular to each."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from finetune_api import names
from finetune_api.resource import MAX_NAME, NAME_RULE, FineTuneJob
from finetune_api.rules import Rule
from finetune_api.spec.job import MUTABLE_FIELDS
from finetune_api.sweep.resource import MAX_SWEEP_NAME, SWEEP_NAME_RULE, FineTuneSweep
from finetune_api.sweep.spec import SWEEP_MUTABLE_FIELDS

Column = tuple[str, str, str, int, str]
"""A column of `kubectl get`: name, type, JSONPath, priority (1: only with `-o wide`), description."""


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """One custom resource."""

    kind: str
    plural: str
    singular: str
    short_name: str
    model: type[BaseModel]
    longest_name: int
    name_rule: Rule
    mutable_fields: AbstractSet[str]
    """Fields of the spec that may change after creation, by path below it."""
    columns: tuple[Column, ...]


FINETUNE_JOB: Final = ResourceKind(
    kind=names.KIND,
    plural=names.PLURAL,
    singular=names.SINGULAR,
    short_name=names.SHORT_NAME,
    model=FineTuneJob,
    longest_name=MAX_NAME,
    name_rule=NAME_RULE,
    mutable_fields=MUTABLE_FIELDS,
    columns=(
        ("Phase", "string", ".status.phase", 0, "Where the run stands."),
        ("Progress", "integer", ".status.progress.percentage", 0, "Share of the optimizer steps done, in percent."),
        ("Loss", "number", ".status.metrics.loss", 0, "Training loss of the last logged steps."),
        ("GPUs", "integer", ".status.gpus", 0, "GPUs of the run."),
        ("Queue", "string", ".spec.scheduling.queueName", 0, "Kueue LocalQueue that the run waits in."),
        ("Restarts", "integer", ".status.restarts", 0, "Pods started beyond the first."),
        ("Age", "date", ".metadata.creationTimestamp", 0, "Time since the FineTuneJob was created."),
        ("ETA", "integer", ".status.progress.estimatedRemainingSeconds", 1, "Time to the end at the present speed, in seconds."),
        ("Model", "string", ".spec.model.uri", 1, "Base model."),
        ("Artifact", "string", ".status.artifacts[0].uri", 1, "Where the adapter lies."),
        ("Reason", "string", '.status.conditions[?(@.type=="Succeeded")].reason', 1, "Why the run stands where it stands."),
    ),
)
FINETUNE_SWEEP: Final = ResourceKind(
    kind=names.SWEEP_KIND,
    plural=names.SWEEP_PLURAL,
    singular=names.SWEEP_SINGULAR,
    short_name=names.SWEEP_SHORT_NAME,
    model=FineTuneSweep,
    longest_name=MAX_SWEEP_NAME,
    name_rule=SWEEP_NAME_RULE,
    mutable_fields=SWEEP_MUTABLE_FIELDS,
    columns=(
        ("Phase", "string", ".status.phase", 0, "Where the sweep stands."),
        ("Trials", "integer", ".status.counts.total", 0, "Trials of the whole sweep."),
        ("Active", "integer", ".status.counts.active", 0, "Trials made and not ended."),
        ("Succeeded", "integer", ".status.counts.succeeded", 0, "Trials ended with a result."),
        ("Failed", "integer", ".status.counts.failed", 0, "Trials ended without one."),
        ("Best", "string", ".status.best.name", 0, "The best trial so far."),
        ("Value", "number", ".status.best.value", 0, "Its objective."),
        ("Age", "date", ".metadata.creationTimestamp", 0, "Time since the FineTuneSweep was created."),
        ("Search", "string", ".spec.search.type", 1, "Which combinations are tried."),
        ("Reason", "string", '.status.conditions[?(@.type=="Succeeded")].reason', 1, "Why the sweep stands where it stands."),
    ),
)
KINDS: Final = (FINETUNE_JOB, FINETUNE_SWEEP)
