"""The FineTuneSweep as a whole, and reading one so that every fault is named at once."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from finetune_api.base import StoredModel
from finetune_api.names import SWEEP_KIND
from finetune_api.resource import build_name_rule, parse_envelope, parse_strictly
from finetune_api.sweep.spec import FineTuneSweepSpec
from finetune_api.sweep.status import FineTuneSweepStatus

MAX_SWEEP_NAME: Final = 54
SWEEP_NAME_RULE: Final = build_name_rule(MAX_SWEEP_NAME)
"""Name of a FineTuneSweep: with the number and the round of a trial behind it, it is still the name of a FineTuneJob."""


class FineTuneSweep(StoredModel):
    """Many fine-tuning runs with different parameters, and the best of them."""

    api_version: Literal["finetune.dev/v1alpha1"] = "finetune.dev/v1alpha1"
    """API group and version."""
    kind: Literal["FineTuneSweep"] = "FineTuneSweep"
    """Kind of the resource."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Name, namespace, labels and the rest that every object has."""
    spec: FineTuneSweepSpec
    """What to try."""
    status: FineTuneSweepStatus = Field(default_factory=FineTuneSweepStatus)
    """What the operator has seen."""


def parse_sweep_spec(spec: Mapping[str, Any]) -> FineTuneSweepSpec:
    """Read a specification as strictly as the API server does: no text for numbers, no unknown fields, no Python names.

    :raises SpecInvalid: with every fault found.
    """
    return parse_strictly(FineTuneSweepSpec, spec)


def parse_sweep_manifest(manifest: Mapping[str, Any]) -> FineTuneSweep:
    """Read a manifest as a person writes it. Its status, if it has one, is not read.

    :raises SpecInvalid: with every fault found, in the specification and around it.
    """
    spec = parse_envelope(manifest, SWEEP_KIND, SWEEP_NAME_RULE, parse_sweep_spec)
    return FineTuneSweep(metadata=dict(manifest["metadata"]), spec=spec)
