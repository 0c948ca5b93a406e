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


def divide_and_gather(rank: int, port: int, result: Path) -> None:
    """As one of two processes: divide and gather tensors of several sizes; write the parts' type and shape, and whether all came back."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import fully_shard

    from finetune_trainer.device import Device
    from finetune_trainer.model.sharding import build_mesh, divide_like, gather_whole, take_local

    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0, timeout=timedelta(seconds=60))  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    mesh = build_mesh(Device("cpu", "cpu"))
    seen = []
    for rows in (1, 3, 4):
        divided: Any = nn.Linear(2, rows, bias=False)
        fully_shard(divided, mesh=mesh)
        whole = torch.arange(2.0 * rows, dtype=torch.float64).view(rows, 2)
        part = divide_like(whole, divided.weight)
        seen.append([str(part.dtype), list(take_local(part).shape), torch.equal(gather_whole(part), whole.to(part.dtype))])
    result.write_text(json.dumps(seen))
    dist.destroy_process_group()


def find_gathered(rank: int, port: int, result: Path) -> None:
    """As one of two processes, of a model that keeps what it has gathered: write how many of its weights are whole, moment by moment."""
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor

    from finetune_trainer.device import Device
    from finetune_trainer.model.sharding import build_mesh, divide_model

    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0, timeout=timedelta(seconds=60))  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    seen: dict[str, dict[str, int]] = {}
    for way, keeps in (("gradients", True), ("full", False)):
        model = _build_small()
        device = Device("cpu", "cpu")
        divide_model(model, list(model.parameters()), device, build_mesh(device), "float32", keeps_gathered=keeps)

        def count(of: Any = model) -> int:
            return sum(not isinstance(each, DTensor) for each in of.parameters())

        ids = torch.arange(4)[None]
        moments = {"before": count()}
        loss = model(input_ids=ids, labels=ids).loss
        moments["after the forward pass"] = count()
        loss.backward()
        moments["after the backward pass"] = count()
        with torch.no_grad():
            model(input_ids=ids)
        moments["after an evaluation"] = count()
        model(input_ids=ids, labels=ids).loss.backward()
        moments["after the next step"] = count()
        seen[way] = moments
    result.write_text(json.dumps(seen))
    dist.destroy_process_group()


def offload(result: Path) -> None:
    """As one of two processes that are alone in this: train a model whose parts lie elsewhere, on tensors without contents, of which no two
    on different devices can be computed with. Write what lies where.
    """
    import torch
    import torch.distributed as dist
    import torch.testing._internal.distributed.fake_pg  # makes the backend known
    from torch._C._distributed_c10d import FakeStore
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.estimate.offloaded_parts import offload_parts
    from finetune_trainer.device import Device
    from finetune_trainer.model.sharding import (
        build_mesh,
        divide_like,
        divide_model,
        divide_optimizer_state,
        find_device,
        gather_optimizer_state,
        take_local,
    )

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    device = Device("cpu", "cpu")
    mesh = build_mesh(device)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _build_small()
        with offload_parts():
            divide_model(model, list(model.parameters()), device, mesh, "float32", offloads=True)
            trained = list(model.parameters())
            optimizer = torch.optim.AdamW(trained, foreach=False)
            ids = torch.zeros((1, 4), dtype=torch.long)
            for _ in range(2):  # the second adds to the gradients of the first
                output = model(input_ids=ids, labels=ids)
                output.loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=False)
            optimizer.step()
        whole = trained[0].detach().full_tensor()  # type: ignore[attr-defined]
        state = gather_optimizer_state(optimizer.state_dict(), keeps=True)
        divided = divide_optimizer_state(state, trained)
        optimizer.load_state_dict(divided)
        with torch.no_grad():
            trained[0].copy_(divide_like(whole, trained[0]))
        of_state = [take_local(each) for values in optimizer.state.values() for each in values.values() if each.ndim]
        seen = {
            "model": str(find_device(model)),
            "asked": str(model.device),
            "computed": output.logits.device.type,
            "weights": sorted({take_local(each).device.type for each in trained}),
            "gradients": sorted({take_local(each.grad).device.type for each in trained if each.grad is not None}),
            "states": sorted({each.device.type for each in of_state}),
            "norm": norm.full_tensor().device.type,  # type: ignore[attr-defined]
        }
    result.write_text(json.dumps(seen))
    dist.destroy_process_group()


def _build_small() -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=16, pad_token_id=0, **sizes))
    return model.train()


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
