"""A stand-in, on processors, for torch's kernel of attention by variable lengths, which is for GPUs alone: example by example, in 32 bits
at the least. It refuses what the kernel refuses."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support.resume_checks import train_with_and_without_a_stop


@contextmanager
def stand_in(*, wrong: str | None = None) -> Iterator[dict[str, int]]:
    """Put it where torch looks for a processor's kernel, let the trainer take a processor for a device that has it, in 32 bits too.

    :param wrong: compute something else: `leak`, `window` (one token too many), `gradient`, or `nan`; or `missing`, not at all.
    :return: how often it was called, `forward` and `backward`.
    """
    import torch

    from finetune_trainer.model import varlen, varlen_choice

    calls = {"forward": 0, "backward": 0}

    def forward(query: Any, key: Any, value: Any, starts: Any, *others: Any) -> Any:
        if wrong == "missing":
            raise RuntimeError("there is no kernel\nfor this device")
        calls["forward"] += 1
        _check(query, key, value, starts, others)
        _ends, _max_q, _max_k, _causal, scale, window, *_ = others
        starts = starts[[0, -1]] if wrong == "leak" else starts
        output = torch.zeros_like(query)
        sums = torch.zeros(query.shape[1], query.shape[0])
        for begin, end in _examples(starts):
            scores, seen = _score(query[begin:end], key[begin:end], scale, _widen(window, wrong))
            sums[:, begin:end] = scores.masked_fill(~seen, -torch.inf).logsumexp(-1)
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            output[begin:end] = torch.einsum("hqk,khd->qhd", weights, _repeat(value[begin:end], query.shape[1])).to(query.dtype)
        return output * (torch.nan if wrong == "nan" else 1), sums, torch.zeros(2, dtype=torch.uint64)

    def backward(upstream: Any, query: Any, key: Any, value: Any, _output: Any, _sums: Any, starts: Any, *others: Any) -> Any:
        calls["backward"] += 1
        _ends, _max_q, _max_k, _causal, _random, scale, window, *_ = others
        found = [torch.zeros_like(each) for each in (query, key, value)]
        shared = key.shape[1]
        for begin, end in _examples(starts):
            ours, wide = upstream[begin:end].to(_wide(query)), _repeat(value[begin:end], query.shape[1])
            scores, seen = _score(query[begin:end], key[begin:end], scale, window)
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            of_weights = torch.einsum("qhd,khd->hqk", ours, wide)
            of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * _get_scale(query, scale)
            found[0][begin:end] = torch.einsum("hqk,khd->qhd", of_scores, _repeat(key[begin:end], query.shape[1])).to(query.dtype)
            of_keys = torch.einsum("hqk,qhd->khd", of_scores, query[begin:end].to(_wide(query)))
            of_values = torch.einsum("hqk,qhd->khd", weights, ours)
            for place, gradient in ((1, of_keys), (2, of_values)):
                found[place][begin:end] = gradient.unflatten(1, (shared, -1)).sum(2).to(query.dtype)
        return tuple(each * (2 if wrong == "gradient" else 1) for each in found)

    with torch.library._scoped_library("torch_attn", "IMPL") as library:
        library.impl("_varlen_attn", forward, "CPU")
        library.impl("_varlen_attn_backward", backward, "CPU")
        with (
            mock.patch.object(varlen, "DTYPES", (*varlen.DTYPES, torch.float32)),
            mock.patch.object(varlen_choice, "KERNELS", ("cpu", "cuda")),
            mock.patch.object(varlen_choice, "TYPES", (*varlen_choice.TYPES, "float32")),
        ):
            yield calls


def train_both_ways(configs: dict[str, dict[str, Any]], result: Path) -> None:
    """Run each of ``configs`` as it is, and again on the stand-in; write what came of both to ``result``, by name. Runs in a trainer's
    process.
    """
    from finetune_api.trainer_config import TrainerConfig
    from finetune_trainer.interruption import Interruption
    from finetune_trainer.logs import set_up_logging
    from finetune_trainer.run import Run

    set_up_logging()
    said = _Said()
    logging.getLogger("finetune_trainer.model.varlen_choice").addHandler(said)
    seen: dict[str, Any] = {}
    for name, config in configs.items():
        told: dict[str, Any] = {}
        for way in ("mask", "lengths"):
            said.messages.clear()
            own = {"output": {"uri": f"{config['output']['uri']}-{way}"}, "workDir": f"{config['workDir']}-{way}"}
            with stand_in() if way == "lengths" else nullcontext({}) as calls:
                summary = Run(TrainerConfig.model_validate(config | own), Interruption(), {}).execute()
            told[way] = {
                "losses": [point.loss for point in summary.metrics.history or []],
                "eval_losses": [summary.metrics.base_eval_loss, summary.metrics.eval_loss],
                "answers": [sample.model_dump(mode="json") for sample in summary.metrics.samples],
                "calls": calls,
                "said": list(said.messages),
            }
        seen[name] = told
        result.write_text(json.dumps(seen))


def stop_and_go_on(configs: dict[str, dict[str, Any]], step: int, result: Path) -> None:
    """As :func:`~tests.support.resume_checks.train_with_and_without_a_stop`, on the stand-in."""
    with stand_in() as calls:
        train_with_and_without_a_stop(configs, step, result)
    assert calls["backward"], "no layer went by it"


def train_in_group(config: dict[str, Any], rank: int) -> None:
    """Run the trainer of the ``rank``-th pod of several on the stand-in."""
    from finetune_trainer.main import main

    os.environ |= {"FINETUNE_CONFIG": json.dumps(config), "JOB_COMPLETION_INDEX": str(rank)}
    sys.argv = ["finetune-trainer"]
    with stand_in():
        main()


class _Said(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _check(query: Any, key: Any, value: Any, starts: Any, others: Any) -> None:
    """Refuse what Flash's kernel refuses."""
    import torch

    ends, max_q, max_k, causal, _, window, *_ = others
    assert query.dtype == key.dtype == value.dtype
    assert query.ndim == key.ndim == value.ndim == 3
    assert query.shape[-1] == key.shape[-1] == value.shape[-1] <= 256
    assert query.shape[-1] % 8 == 0
    assert query.shape[1] % key.shape[1] == 0
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert starts.dtype == ends.dtype == torch.int32
    assert starts.is_contiguous()
    assert int(starts[0]) == 0
    assert int(starts[-1]) == query.shape[0] == key.shape[0] == value.shape[0]
    assert max_q == max_k == int(starts.diff().max())
    assert causal == (window == [-1, 0])


def _examples(starts: Any) -> Any:
    return zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)


def _score(query: Any, key: Any, scale: Any, window: Any) -> tuple[Any, Any]:
    """Return scores (heads, tokens, tokens), and what is seen."""
    import torch

    wide = query.to(_wide(query))
    scores = torch.einsum("qhd,khd->hqk", wide, _repeat(key, query.shape[1])) * _get_scale(query, scale)
    gap = torch.arange(len(query))[:, None] - torch.arange(len(query))
    left, right = window
    return scores, (gap >= -right) & ((gap <= left) if left >= 0 else (gap >= -len(query)))


def _widen(window: Any, wrong: str | None) -> Any:
    return [window[0] + 1, window[1]] if wrong == "window" and window[0] >= 0 else window


def _repeat(tensor: Any, heads: int) -> Any:
    return tensor.to(_wide(tensor)).repeat_interleave(heads // tensor.shape[1], 1)


def _get_scale(query: Any, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def _wide(tensor: Any) -> Any:
    import torch

    return torch.promote_types(tensor.dtype, torch.float32)
