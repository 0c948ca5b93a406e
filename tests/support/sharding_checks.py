"""What a divided model's run published, against what an undivided one did.

Functions here run in a process of their own: the tests load no torch.
"""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

PROMPT = "What does the function do?\n"


def compare_published(base: Path, ours: Path, theirs: Path, result: Path) -> None:
    """Load both artifacts as anyone would; write the largest difference of their logits, and how far the base's are from them."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    logits = [_compute(folder, base, ids) for folder in (ours, theirs, base)]
    seen = {"difference": float((logits[0] - logits[1]).abs().max()), "effect": float((logits[0] - logits[2]).abs().max())}
    result.write_text(json.dumps(seen))


def _compute(folder: Path, base: Path, ids: Any) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = (folder / "adapter_config.json").is_file()
    model: Any = AutoModelForCausalLM.from_pretrained(base if adapter else folder, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits[:, -ids.size(1) :]  # learnt tokens have logits too


def count_layers(result: Path) -> None:
    """Write how many decoder layers are found in each family of models, and how many it has."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.families.catalog import FAMILIES
    from finetune_trainer.model.sharding import find_layers

    seen = {}
    for family, (kind, settings) in FAMILIES.items():
        config = AutoConfig.for_model(kind, vocab_size=64, bos_token_id=None, eos_token_id=None, pad_token_id=None, **settings)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        seen[family] = [len(find_layers(model)), config.num_hidden_layers]
    result.write_text(json.dumps(seen))


def average(rank: int, port: int, result: Path) -> None:
    """As one of two processes: average the gradients of weights that both, one, or none of them has used, and of one in 16 bits."""
    import torch
    import torch.distributed as dist

    from finetune_trainer.model.sharding import average_gradients

    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0, timeout=timedelta(seconds=60))  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    both, one, none, half, frozen = (torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(5))
    half.data = half.data.to(torch.bfloat16)
    frozen.requires_grad_(requires_grad=False)
    both.grad = torch.full((2, 3), 1.0 + 2 * rank)
    half.grad = torch.full((2, 3), 4.0 * rank, dtype=torch.bfloat16)
    if rank:
        one.grad = torch.full((2, 3), 5.0)
    average_gradients([both, one, none, half, frozen])
    seen = [
        None if each.grad is None else [str(each.grad.dtype), sorted(set(each.grad.flatten().tolist()))]
        for each in (both, one, none, half, frozen)
    ]
    result.write_text(json.dumps(seen))
    dist.destroy_process_group()


def take_turns(rank: int, port: int, folder: Path) -> None:
    """As one of two processes of a pod: note when its turn begins and ends. The first begins when the second waits."""
    from finetune_api.names import ENV_LOCAL_RANK
    from finetune_api.trainer_config import GroupConfig
    from finetune_trainer.group import Group

    group = Group(GroupConfig(nodes=1, processes=2, address="127.0.0.1", port=port), {ENV_LOCAL_RANK: str(rank)})
    assert group.meet("gloo", lambda: False)
    waiting, deadline = folder / "waiting", time.monotonic() + 60
    if rank:
        waiting.touch()
    while not waiting.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with group.in_turn(), (folder / "order").open("a") as order:
        order.write(f"begin {rank}\n")
        order.flush()
        order.write(f"end {rank}\n")
    assert group.sum(1) == 2
    group.part()
    if group.leads:
        group.tell_done()
    else:
        assert group.wait_for_leader(lambda: True, lambda: False)
