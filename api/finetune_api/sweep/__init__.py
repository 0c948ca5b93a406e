"""The FineTuneSweep: many runs from one template, and the best of them."""

from finetune_api.sweep.resource import FineTuneSweep, parse_sweep_manifest, parse_sweep_spec
from finetune_api.sweep.spec import FineTuneSweepSpec
from finetune_api.sweep.status import FineTuneSweepStatus, SweepPhase, TrialStatus
from finetune_api.sweep.trials import Trial, compute_first_trials, compute_promoted_trials

__all__ = [
    "FineTuneSweep",
    "FineTuneSweepSpec",
    "FineTuneSweepStatus",
    "SweepPhase",
    "Trial",
    "TrialStatus",
    "compute_first_trials",
    "compute_promoted_trials",
    "parse_sweep_manifest",
    "parse_sweep_spec",
]
