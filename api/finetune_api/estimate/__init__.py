"""How much GPU memory a run needs, from its specification and the base model's ``config.json`` alone: pure arithmetic, no torch.

Every term is a :class:`~finetune_api.estimate.terms.Term` with its reason. ``benchmarks/estimate`` holds the sum against PyTorch's own
tracking of memory; the table of errors is ``docs/reference/estimate.md``.
"""

from finetune_api.estimate.advice import Change, compute_changes_that_fit
from finetune_api.estimate.division import divides
from finetune_api.estimate.known import find_known_shape
from finetune_api.estimate.memory import Estimate, compute_estimate
from finetune_api.estimate.shape import ModelShape, ShapeUnknown, read_shape
from finetune_api.estimate.terms import Term

__all__ = [
    "Change",
    "Estimate",
    "ModelShape",
    "ShapeUnknown",
    "Term",
    "compute_changes_that_fit",
    "compute_estimate",
    "divides",
    "find_known_shape",
    "read_shape",
]
