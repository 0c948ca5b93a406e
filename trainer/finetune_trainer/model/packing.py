"""Whether a model keeps packed examples apart."""

from typing import Any, Final

import torch

from finetune_trainer.errors import ConfigInvalid

_LENGTH: Final = 8
_LARGEST: Final = 5e-3
"""Share of the logits, on average, that may differ: experts and 8-bit layers round by what else is in the batch. Where one example sees
another, it is tens of percents."""


def measure_leak(model: Any) -> float:  # noqa: ANN401  transformers has no one type for a model
    """Return how much an example's logits depend on the example packed before it, as a share of their size: 0 where they are apart.

    Packed examples lie in one row, told apart by positions that begin anew. An architecture whose attention does not look at that lets each
    example see all before it, without a word.
    """
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    first, other, second = (torch.randint(vocabulary, (_LENGTH,), generator=generator) for _ in range(3))
    positions = torch.arange(_LENGTH).repeat(2)[None].to(device)

    def answer(before: torch.Tensor) -> torch.Tensor:
        row = torch.cat([before, second])[None].to(device)
        logits: torch.Tensor = model(input_ids=row, position_ids=positions, use_cache=False).logits
        return logits[0, _LENGTH:].float()

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            one, two = answer(first), answer(other)
    finally:
        model.train(training)
    return float((one - two).abs().mean() / (one - one.mean(-1, keepdim=True)).abs().mean().clamp_min(1e-9))


def check_packing(model: Any, uri: str) -> None:  # noqa: ANN401
    """Check that ``model`` keeps packed examples apart.

    :raises ConfigInvalid: it does not.
    """
    if (leak := measure_leak(model)) > _LARGEST:
        raise ConfigInvalid(
            f"training.packing: in {uri} (model_type {model.config.model_type}), packed examples see each other (one changes the next "
            f"one's logits by {leak:.1%}), because its attention does not look at where they begin; set training.packing to false"
        )
