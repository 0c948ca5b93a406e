"""One training step on tensors without contents, and the memory that a GPU's allocator would give out for it.

The parts are the real ones: transformers' model, PEFT's adapter, bitsandbytes' 4-bit layers and its autograd, TRL's loss over tiles. Only
the numbers are missing (PyTorch's fake tensors), so a model of 65B takes seconds on a laptop. Where a processor computes otherwise than a
GPU, the GPU's way is taken: dropout keeps a mask of bytes, and the loss folds its tiles in place.

A model that is divided (`training.sharding`) is divided by the trainer's own code and gathered by torch's FSDP2, in one process that is
told that there are others (torch's fake process group): what it holds is what one GPU of them holds.

Not seen this way: what kernels allocate inside themselves, what the allocator holds beyond what it gives out, and the CUDA context.
"""

import gc
import os
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

from finetune_trainer.model.eager import load_bitsandbytes
from finetune_trainer.model.fp8_linear import FP8, Fp8Linear

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # that ORPO and distillation may change is known: TRL's version is locked
load_bitsandbytes()

import bitsandbytes as bnb  # noqa: E402  # after the loader
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.testing._internal.distributed.fake_pg  # noqa: E402  # makes the backend known
import trl.kernels.chunked_logprob as tiles  # noqa: E402
from accelerate.utils import convert_outputs_to_fp32  # noqa: E402
from bitsandbytes.functional import QuantState  # noqa: E402
from peft import get_peft_model  # noqa: E402
from torch import nn  # noqa: E402
from torch._C._distributed_c10d import FakeStore  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: E402
from transformers.cache_utils import DynamicCache  # noqa: E402
from trl.experimental.gkd import GKDTrainer  # noqa: E402
from trl.experimental.orpo import ORPOTrainer  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from benchmarks.estimate.joined import join_gradients  # noqa: E402
from benchmarks.estimate.offloaded_parts import offload_parts  # noqa: E402
from benchmarks.estimate.offloading import NODE, offload_activations  # noqa: E402
from finetune_api.estimate.step import build_batch  # noqa: E402
from finetune_api.spec import FineTuneJobSpec, QuantizationSpec  # noqa: E402
from finetune_trainer.device import Device  # noqa: E402
from finetune_trainer.model.adapted import AdaptedModel  # noqa: E402
from finetune_trainer.model.adapter import keep_types  # noqa: E402
from finetune_trainer.model.peft_configs import build_peft_config  # noqa: E402
from finetune_trainer.model.sharding import average_gradients, build_mesh, divide_model, take_local  # noqa: E402

GRANULE = 512
"""PyTorch's CUDA allocator gives out multiples of so many bytes."""
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Measured:
    """Bytes."""

    held: int
    """Base and adapter, before the first step."""
    peak: int
    """Highest point of a step, gradients and optimizer states included; of loading, where the base is quantised and then divided."""


class MemoryTracking(TorchDispatchMode):
    """Adds up the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it asks for the same of its part, which comes here
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor) and not isinstance(leaf, DTensor) and leaf.device.type != NODE:
                self._note(leaf.untyped_storage())
        return output

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._seen:
            size = -(-storage.nbytes() // GRANULE) * GRANULE
            self._seen[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._seen.pop(key, 0)

    def follow(self, storage: torch.UntypedStorage) -> None:
        """Note that a storage has another size now: FSDP empties and fills those of gathered weights."""
        key = storage._cdata
        if key in self._seen:
            size = -(-storage.nbytes() // GRANULE) * GRANULE
            self.now += size - self._seen[key]
            self._seen[key] = size
            self.peak = max(self.peak, self.now)
        else:
            self._note(storage)


def measure(config: dict[str, Any], spec: FineTuneJobSpec, teacher: dict[str, Any] | None = None) -> Measured:
    """Run one step of ``spec`` on a model of ``config`` (a ``config.json``) without its weights.

    :param teacher: the teacher's configuration, for the objective ``distill``.
    """
    tracking = MemoryTracking()
    dtype = _DTYPES[spec.method.quantization.compute_dtype]
    divided = spec.training.sharding != "none"
    with ExitStack() as stack:
        mesh = stack.enter_context(_as_one_of(spec.resources.gpus * spec.resources.nodes, tracking)) if divided else None
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_as_on_a_gpu())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(tracking)
        whole = spec.method.adapter.type == "none"
        model = _build_model(config, spec, torch.float32 if whole else dtype)
        taught = _build_model(teacher, spec, dtype, teaches=True) if teacher is not None else None
        base = list(model.parameters())
        add_fused_lm_head(model) if spec.method.objective != "reward" else None
        if whole:
            model.requires_grad_(requires_grad=True)
        else:
            model = _add_adapter(model, spec, dtype)
        loading = 0
        if mesh is not None:
            tracking.peak = tracking.now
            stack.enter_context(_divide(model, base, mesh, spec))
            # What is not quantised is divided on its way from the node's memory to the GPU: here it was on the device already.
            loading = tracking.peak if spec.method.quantization.type != "none" else 0
        del base
        if spec.training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            if not whole:
                model.enable_input_require_grads()
        model.train()
        gc.collect()
        held = tracking.peak = tracking.now
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        states = [_make_state(take_local(parameter), spec.training.optimizer) for parameter in trained]
        several = not divided and spec.resources.gpus * spec.resources.nodes > 1
        called = stack.enter_context(join_gradients(model, spec.resources.gpus * spec.resources.nodes)) if several else model
        step = _Step(model, spec, dtype, taught, called)
        offload = stack.enter_context(offload_activations(model)) if spec.training.activation_offloading else nullcontext()
        # With several micro-batches, the gradients of the first are there during the second.
        for _ in range(min(2, spec.training.gradient_accumulation_steps)):
            with offload:
                step.run()
        if divided:
            with _AllUsed():
                average_gradients(model.parameters())
        gradients = sum(parameter.grad is not None for parameter in trained)
        assert gradients == len(trained), "a part of what is trained got no gradient"
        if spec.method.objective == "grpo":
            step.answer()
        del states
    return Measured(held, max(loading, tracking.peak))


@contextmanager
def _divide(model: Any, base: list[Any], mesh: Any, spec: FineTuneJobSpec) -> Iterator[None]:
    training, compute_dtype = spec.training, spec.method.quantization.compute_dtype
    ways = {"keeps_gathered": training.sharding == "gradients", "offloads": training.shard_offloading}
    with offload_parts() if training.shard_offloading else nullcontext():
        divide_model(model, base, Device("cpu", "cpu"), mesh, compute_dtype, **ways)
        yield


class _AllUsed(TorchDispatchMode):
    """Says of every gradient that it is there: that can't be asked of tensors without contents."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return 1.0 if func is torch.ops.aten._local_scalar_dense.default else func(*args, **(kwargs or {}))


@contextmanager
def _as_one_of(size: int, tracking: MemoryTracking) -> Iterator[Any]:
    """Make this process the first of ``size``, of which there is no other: what is gathered has the right size and no contents."""
    resize = torch.UntypedStorage.resize_

    def follow(storage: torch.UntypedStorage, wanted: int) -> torch.UntypedStorage:
        resize(storage, wanted)
        tracking.follow(storage)
        return storage

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        with mock.patch.object(torch.UntypedStorage, "resize_", follow):
            yield build_mesh(Device("cpu", "cpu"))
    finally:
        dist.destroy_process_group()


def _build_model(config: dict[str, Any], spec: FineTuneJobSpec, dtype: torch.dtype, *, teaches: bool = False) -> Any:
    kind = config["model_type"]
    others = {"num_labels": 1, "pad_token_id": 0} if spec.method.objective == "reward" else {}
    settings = AutoConfig.for_model(kind, **{key: value for key, value in (config | others).items() if key != "model_type"})
    made = AutoModelForSequenceClassification if others else AutoModelForCausalLM
    model: Any = made.from_config(settings, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    if spec.method.quantization.type != "none":
        _quantise(model, spec.method.quantization, dtype, dtype if spec.training.sharding != "none" and not teaches else torch.uint8)
    model.requires_grad_(requires_grad=False)
    return model


class _Learnt:
    """Labels of which every one is learnt: which they are can't be asked of tensors without contents."""

    def __init__(self, rows: int, columns: int) -> None:
        self._where = (torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows))

    def __ne__(self, other: object) -> Any:
        """Return the places of all labels, in the place of those that are not ``other``."""
        return self._where

    __hash__ = None  # type: ignore[assignment]


class _Step:
    """One pass forwards and backwards, as the objective's trainer does it."""

    def __init__(self, model: Any, spec: FineTuneJobSpec, dtype: torch.dtype, teacher: Any, called: Any) -> None:
        self._model, self._spec, self._dtype = model, spec, dtype
        self._forward = convert_outputs_to_fp32(self._cast(called))
        self._teach = convert_outputs_to_fp32(self._cast(teacher)) if teacher is not None else None
        self._adapted = AdaptedModel(model, spec.method.adapter)

    def _cast(self, model: Any) -> Any:
        def forward(**inputs: Any) -> Any:
            with torch.autocast("cpu", dtype=self._dtype, enabled=self._dtype != torch.float32):
                return model(**inputs)

        return forward

    def run(self) -> None:
        """Add the gradients of a micro-batch."""
        loss = self._compute_loss()
        extra = self._adapted.compute_extra_loss()
        (loss if extra is None else loss + extra).backward()

    def _compute_loss(self) -> Any:
        spec, batch = self._spec, build_batch(self._spec)
        length = batch.length - (spec.method.adapter.resolved_virtual_tokens if spec.method.adapter.type != "prefix-tuning" else 0)
        tokens = torch.zeros((batch.rows, length), dtype=torch.long)
        inputs: dict[str, Any] = {"input_ids": tokens}
        if batch.rows == 1 and spec.training.packing:
            of_each = spec.training.max_length
            inputs["position_ids"] = torch.arange(of_each).repeat(1, length // of_each)
        else:
            inputs["attention_mask"] = torch.ones((batch.rows, length), dtype=torch.long)
        match spec.method.objective:
            case "reward":
                chosen, rejected = self._forward(**inputs).logits.squeeze(-1).chunk(2)
                return -nn.functional.logsigmoid(chosen - rejected).mean()
            case "orpo":
                return self._compute_orpo(tokens, inputs["attention_mask"])
            case "distill":
                student = self._forward(**inputs).logits[:, -length:-1, :]
                with torch.no_grad():
                    teacher = self._teach(**inputs).logits[:, :-1, :].to(student.dtype)  # type: ignore[misc]
                labels = _Learnt(batch.rows, length - 1)
                return GKDTrainer.generalized_jsd_loss(student.float(), teacher.float(), labels, 0.0, 1.0, num_items_in_batch=length)
            case "dpo":
                own = self._forward(**inputs, labels=tokens, fused_lm_head=True).log_probs.sum(dim=1)
                with torch.no_grad(), self._model.disable_adapter():
                    theirs = self._forward(**inputs, labels=tokens, fused_lm_head=True).log_probs.sum(dim=1)
                chosen, rejected = (own - theirs).chunk(2)
                return -nn.functional.logsigmoid(chosen - rejected).mean()
            case "kto":
                with torch.no_grad():
                    neighbours = self._forward(**inputs, labels=tokens, fused_lm_head=True).log_probs.sum(dim=1)
                own = self._forward(**inputs, labels=tokens, fused_lm_head=True).log_probs.sum(dim=1)
                with torch.no_grad(), self._model.disable_adapter():
                    theirs = self._forward(**inputs, labels=tokens, fused_lm_head=True).log_probs.sum(dim=1)
                return (1 - torch.sigmoid(own - theirs - neighbours.mean())).mean()
            case "grpo":
                own = self._forward(**inputs, labels=tokens, fused_lm_head=True).log_probs
                return -torch.exp(own - own.detach()).mean()
        return self._forward(**inputs, labels=tokens, fused_lm_head=True).loss

    def _compute_orpo(self, tokens: torch.Tensor, mask: torch.Tensor) -> Any:
        trainer: Any = ORPOTrainer.__new__(ORPOTrainer)
        trainer.is_encoder_decoder = trainer.aux_loss_enabled = False
        trainer.padding_value, trainer.beta, trainer.accelerator = 0, 0.1, mock.Mock(device="cpu")
        half = len(tokens) // 2
        batch = {}
        for name in ("chosen", "rejected"):
            batch |= {f"{name}_input_ids": tokens[:half], f"{name}_attention_mask": mask[:half], f"{name}_labels": tokens[:half]}

        def forward(input_ids: Any, **others: Any) -> Any:
            return self._forward(input_ids=input_ids, **others)

        chosen, rejected, _, _, likelihood = trainer.concatenated_forward(forward, batch)
        losses, *_ = trainer.odds_ratio_loss(chosen, rejected)
        return likelihood - losses.mean()

    def answer(self) -> None:
        """Read the prompts of a step's answers and write one token more, with the keys and values of whole answers."""
        training, grpo = self._spec.training, self._spec.method.grpo
        assert grpo is not None
        rows = training.per_device_batch_size * training.gradient_accumulation_steps
        prompt = training.max_length - grpo.max_completion_length
        self._model.eval()
        with torch.no_grad():
            cache = DynamicCache(config=self._model.config)
            output = self._forward(
                input_ids=torch.zeros((rows, prompt), dtype=torch.long), past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            del output
            for layer in cache.layers:
                room = (*layer.keys.shape[:2], training.max_length - 1, layer.keys.shape[3])
                layer.keys, layer.values = torch.empty(room, dtype=self._dtype), torch.empty(room, dtype=self._dtype)
            self._forward(input_ids=torch.zeros((rows, 1), dtype=torch.long), past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._model.train()


def _do_nothing(*_: Any, **__: Any) -> None:
    """Stands for a kernel that works in place. A Mock would keep every tensor that it is given."""


def _give_constants_back(layer: Any) -> None:
    layer.weight.quant_state = layer.quant_state


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: A002, FBT001, FBT002  # torch's
        del inplace
        return torch.native_dropout(input, p, train=True)[0] if training and p else input

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(nn.functional, "dropout", dropout))
        for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
            stack.enter_context(mock.patch.object(tiles, name, _do_nothing))
        # A gathered weight gets its constants back; the view of it that bitsandbytes takes for that can't be had of fake tensors.
        stack.enter_context(mock.patch.object(bnb.nn.modules, "fix_4bit_weight_quant_state_from_module", _give_constants_back))
        # PEFT asks without naming a device, which means CUDA.
        asked = torch.is_autocast_enabled
        stack.enter_context(mock.patch.object(torch, "is_autocast_enabled", lambda device="cpu": asked(device)))
        yield


def _quantise(model: Any, spec: QuantizationSpec, dtype: torch.dtype, storage: torch.dtype) -> None:
    """Replace every linear layer but the head by one with packed weights, as bitsandbytes or our reader of FP8 leaves them after loading.

    :param storage: type that the packed weights pass for.
    """
    assert spec.type in ("nf4", "fp4", "fp8"), f"{spec.type} can't be measured without a GPU"
    head = getattr(model, "score", None) or model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(parent, name, _round(child) if spec.type == "fp8" else _pack(child, spec, dtype, storage))
    model.is_loaded_in_4bit = spec.type != "fp8"
    model.is_quantized = True


def _round(linear: nn.Linear) -> Fp8Linear:
    return Fp8Linear(torch.empty(linear.weight.shape, dtype=FP8), torch.empty(linear.out_features, 1), linear.bias)


def _pack(linear: nn.Linear, spec: QuantizationSpec, dtype: torch.dtype, storage: torch.dtype) -> Any:
    count = linear.weight.numel()
    blocks = -(-count // 64)
    second = QuantState(absmax=torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32)
    nested = {"offset": torch.empty(()), "state2": second} if spec.double_quant else {}
    state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8 if spec.double_quant else torch.float32),
        shape=linear.weight.shape,
        code=torch.empty(16),
        blocksize=64,
        quant_type=spec.type,
        dtype=dtype,
        **nested,
    )
    packed_bytes = (count + 1) // 2
    weight: Any = nn.Parameter(torch.empty(packed_bytes // storage.itemsize, 1, dtype=storage), requires_grad=False)
    settings = {"quant_state": state, "bnb_quantized": True, "compress_statistics": spec.double_quant, "quant_type": spec.type}
    for name, value in {**settings, "blocksize": 64, "quant_storage": storage, "module": None}.items():
        setattr(weight, name, value)
    # Its own way to be made quantises on the spot, which fake tensors can't.
    packed: Any = bnb.nn.Linear4bit.__new__(bnb.nn.Linear4bit)
    nn.Module.__init__(packed)
    packed.in_features, packed.out_features = linear.in_features, linear.out_features
    packed.weight, packed.bias, packed.quant_state = weight, linear.bias, state
    packed.compute_dtype, packed.compute_type_is_set, packed.quant_storage = dtype, True, storage
    packed.support_avx512bf16_for_cpu = False
    return packed


def _add_adapter(model: Any, spec: FineTuneJobSpec, dtype: torch.dtype) -> Any:
    quantised, adapter = spec.method.quantization.type not in ("none", "fp8"), spec.method.adapter  # as TRL sees it
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype if quantised and adapter.type == "lora" else torch.float32)
    try:
        # Fake tensors can't be moved in place; everything is made where and as it is wanted instead.
        with (
            mock.patch.object(nn.Module, "to", lambda self, *_, **__: self),
            mock.patch("peft.tuners.tuners_utils.BaseTunerLayer._move_adapter_to_device_of_base_layer", _do_nothing),
        ):
            config = build_peft_config(adapter, model, scores=spec.method.objective == "reward")
            adapted = get_peft_model(model, config, autocast_adapter_dtype=not quantised)
    finally:
        torch.set_default_dtype(before)
    for name, parameter in adapted.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad = False
    keep_types(adapted)
    return adapted


def _make_state(parameter: Any, optimizer: str) -> torch.Tensor:
    """Return an optimizer's states of one tensor, where that lies."""
    return torch.empty(_state_bytes(parameter, optimizer), dtype=torch.uint8, device=parameter.device)


def _state_bytes(parameter: Any, optimizer: str) -> int:
    """Return the bytes of an optimizer's states of one tensor, as bitsandbytes, transformers and torch make them."""
    count = parameter.numel()
    moments = 0 if optimizer == "sgd" else 1 if "lion" in optimizer else 2
    if optimizer == "adafactor":
        return 4 * (sum(parameter.shape) if parameter.ndim > 1 else count)
    if "8bit" in optimizer:
        return moments * (count + 4 * -(-count // 256) if count >= 4096 else 4 * count)
    return moments * count * (4 if "32bit" in optimizer else parameter.element_size())
