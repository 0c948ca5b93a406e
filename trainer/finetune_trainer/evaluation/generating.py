"""Answers of a model to prompts."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from finetune_api.spec import GenerationSpec
from finetune_api.spec.method import ComputeDtype
from finetune_trainer.model.sharding import find_device

logger = logging.getLogger(__name__)

_BATCH: Final = 8
"""Prompts answered at once."""
_DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class GenerationStopped(Exception):
    """The run was asked to stop while answers were generated."""


class _StopOnRequest(StoppingCriteria):
    def __init__(self, requested: Callable[[], bool]) -> None:
        self._requested = requested

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **options: Any) -> torch.BoolTensor:  # noqa: ANN401
        del scores, options
        return torch.full((input_ids.shape[0],), self._requested(), device=input_ids.device, dtype=torch.bool)  # type: ignore[return-value]


def build_generation_config(spec: GenerationSpec, tokenizer: Any, stop_ids: Sequence[int]) -> GenerationConfig:  # noqa: ANN401
    """Build transformers' settings. Every one is explicit, so that the base model's own defaults don't mix in."""
    drawn = spec.temperature > 0
    chosen: dict[str, Any] = {"do_sample": drawn, "num_beams": spec.num_beams}
    if drawn:
        chosen |= {"temperature": spec.temperature, "top_k": spec.top_k or 0, "top_p": spec.top_p or 1.0}
    return GenerationConfig(
        max_new_tokens=spec.max_new_tokens,
        repetition_penalty=spec.repetition_penalty,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=_pad_id(tokenizer, stop_ids),
        bos_token_id=tokenizer.bos_token_id,
        use_cache=True,
        **chosen,
    )  # type: ignore[no-untyped-call]


def _pad_id(tokenizer: Any, stop_ids: Sequence[int]) -> int:  # noqa: ANN401
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return next(iter(stop_ids), 0)


def generate_answers(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    spec: GenerationSpec,
    *,
    seed: int,
    compute_dtype: ComputeDtype,
    max_prompt_tokens: int,
    stop_requested: Callable[[], bool],
    stop_ids: Sequence[int],
    adds_special_tokens: bool,
    stops_midway: bool = True,
) -> list[str]:
    """Return the model's answer to each of ``texts``. Modes and random numbers of training are as before afterwards.

    :param max_prompt_tokens: longer prompts lose their beginning.
    :param stop_ids: tokens that end an answer.
    :param adds_special_tokens: whether the tokenizer puts its own tokens around a text; a chat template has done so already.
    :param stops_midway: whether ``stop_requested`` is asked at each token; otherwise after each batch.
    :raises GenerationStopped: ``stop_requested`` became true.
    """
    config = build_generation_config(spec, tokenizer, stop_ids)
    stopping = StoppingCriteriaList([_StopOnRequest(stop_requested)] if stops_midway else [])
    ids = [
        tokenizer(text, add_special_tokens=adds_special_tokens)["input_ids"][-max_prompt_tokens:] or [config.pad_token_id] for text in texts
    ]
    answers: list[str] = []
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    with answering(model, compute_dtype, seed) as device:
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            width = max(map(len, batch))
            if positions is not None:
                config.max_new_tokens = max(1, min(spec.max_new_tokens, positions - width))
            inputs = torch.tensor([[config.pad_token_id] * (width - len(row)) + row for row in batch], device=device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch], device=device)
            output = model.generate(input_ids=inputs, attention_mask=mask, generation_config=config, stopping_criteria=stopping)
            if stop_requested():
                raise GenerationStopped
            answers += [str(text).strip() for text in tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)]
    return answers


@contextmanager
def answering(model: Any, compute_dtype: ComputeDtype, seed: int) -> Iterator[torch.device]:  # noqa: ANN401
    """Ask ``model`` for as long as the block runs: without gradients, without dropout, with random numbers of its own."""
    device = find_device(model)
    training = model.training
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.no_grad(),
        torch.autocast(device.type, dtype=_DTYPES.get(compute_dtype), enabled=compute_dtype in _DTYPES),
    ):
        torch.manual_seed(seed)
        model.eval()
        try:
            yield device
        finally:
            model.train(training)
