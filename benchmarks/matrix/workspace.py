"""The models and the data that the cells are trained with. Runs in a process of its own: it loads torch."""

from pathlib import Path

from tests.support.trainer_workspace import make_workspace

_OUTSPOKEN = 12
"""A random model's answers are all but equally likely, and no adapter on its layers changes that: its head is too faint."""


def make_matrix_workspace(folder: Path) -> None:
    """Write models and data into ``folder``; ``outspoken`` is the base of what learns from the model's own answers."""
    import torch  # noqa: PLC0415  seconds to import
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    make_workspace(folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(_OUTSPOKEN)
    model.save_pretrained(folder / "outspoken")
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(folder / "outspoken")
