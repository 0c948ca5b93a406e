"""One training step on tensors without contents, and the memory that a GPU's allocator would give out for it.

The parts are the real ones: transformers' model, PEFT's adapter, bitsandbytes' 4-bit layers and its autograd, TRL's loss over tiles. Only
the numbers are missing (PyTorch's fake tensors), so a model of 65B takes seconds on a laptop. Where a processor computes otherwise than a
GPU, the GPU's way is taken: dropout keeps a mask of bytes, and the loss folds its tiles in place.

Not seen this way: what kernels allocate inside themselves, what the allocator holds beyond what it gives out, and the CUDA context.
"""

import gc
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from finetune_trainer.model.eager import load_bitsandbytes

load_bitsandbytes()

import bitsandbytes as bnb  # noqa: E402  # after the loader
import torch  # noqa: E402
import trl.kernels.chunked_logprob as tiles  # noqa: E402
from bitsandbytes.functional import QuantState  # noqa: E402
from peft import get_peft_model  # noqa: E402
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from finetune_api.spec import FineTuneJobSpec, QuantizationSpec  # noqa: E402
from finetune_trainer.model.peft_configs import build_lora_config  # noqa: E402

GRANULE = 512
"""PyTorch's CUDA allocator gives out multiples of so many bytes."""
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Measured:
    """Bytes."""

    held: int
    """Base and adapter, before the first step."""
    peak: int
    """Highest point of a step, gradients and optimizer states included."""


class MemoryTracking(TorchDispatchMode):
    """Adds up the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
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


def measure(config: dict[str, Any], spec: FineTuneJobSpec) -> Measured:
    """Run one step of ``spec`` on a model of ``config`` (a ``config.json``) without its weights."""
    tracking = MemoryTracking()
    dtype = _DTYPES[spec.method.quantization.compute_dtype]
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_as_on_a_gpu())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(tracking)
        kind = config["model_type"]
        settings = AutoConfig.for_model(kind, **{key: value for key, value in config.items() if key != "model_type"})
        model: Any = AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation="sdpa")
        model.config.use_cache = False
        quantised = spec.method.quantization.type != "none"
        if quantised:
            _quantise(model, spec.method.quantization, dtype)
        model.requires_grad_(requires_grad=False)
        add_fused_lm_head(model)
        model = _add_adapter(model, spec, dtype if quantised else torch.float32, quantised=quantised)
        if spec.training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.train()
        gc.collect()
        held = tracking.peak = tracking.now
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        states = [torch.empty(_state_bytes(parameter, spec.training.optimizer), dtype=torch.uint8) for parameter in trained]
        # With several micro-batches, the gradients of the first are there during the second.
        for _ in range(min(2, spec.training.gradient_accumulation_steps)):
            _step(model, spec, dtype)
        gradients = sum(parameter.grad is not None for parameter in trained)
        assert gradients == len(trained), "a part of the adapter got no gradient"
        del states
    return Measured(held, tracking.peak)


def _step(model: Any, spec: FineTuneJobSpec, dtype: torch.dtype) -> None:
    training = spec.training
    batch, length = training.per_device_batch_size, training.max_length
    rows = (1, batch * length) if training.packing else (batch, length)
    tokens = torch.zeros(rows, dtype=torch.long)
    inputs: dict[str, Any] = {"input_ids": tokens, "labels": tokens}
    if training.packing:
        inputs["position_ids"] = torch.arange(length).repeat(1, batch)
    else:
        inputs["attention_mask"] = torch.ones(rows, dtype=torch.long)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss = model(**inputs, fused_lm_head=True).loss
    loss.backward()


def _do_nothing(*_: Any, **__: Any) -> None:
    """Stands for a kernel that works in place. A Mock would keep every tensor that it is given."""


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: A002, FBT001, FBT002  # torch's
        del inplace
        return torch.native_dropout(input, p, train=True)[0] if training and p else input

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(nn.functional, "dropout", dropout))
        for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
            stack.enter_context(mock.patch.object(tiles, name, _do_nothing))
        yield


def _quantise(model: Any, spec: QuantizationSpec, dtype: torch.dtype) -> None:
    """Replace every linear layer but the head by a 4-bit one with packed weights, as bitsandbytes leaves them after loading."""
    assert spec.type in ("nf4", "fp4"), f"{spec.type} can't be measured without a GPU"
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(parent, name, _pack(child, spec, dtype))
    model.is_loaded_in_4bit = model.is_quantized = True


def _pack(linear: nn.Linear, spec: QuantizationSpec, dtype: torch.dtype) -> Any:
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
    weight: Any = nn.Parameter(torch.empty((count + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
    settings = {"quant_state": state, "bnb_quantized": True, "compress_statistics": spec.double_quant, "quant_type": spec.type}
    for name, value in {**settings, "blocksize": 64, "quant_storage": torch.uint8, "module": None}.items():
        setattr(weight, name, value)
    # Its own way to be made quantises on the spot, which fake tensors can't.
    packed: Any = bnb.nn.Linear4bit.__new__(bnb.nn.Linear4bit)
    nn.Module.__init__(packed)
    packed.in_features, packed.out_features = linear.in_features, linear.out_features
    packed.weight, packed.bias, packed.quant_state = weight, linear.bias, state
    packed.compute_dtype, packed.compute_type_is_set, packed.quant_storage = dtype, True, torch.uint8
    packed.support_avx512bf16_for_cpu = False
    return packed


def _add_adapter(model: Any, spec: FineTuneJobSpec, dtype: torch.dtype, *, quantised: bool) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        # Fake tensors can't be moved in place; everything is made where and as it is wanted instead.
        with (
            mock.patch.object(nn.Module, "to", lambda self, *_, **__: self),
            mock.patch("peft.tuners.tuners_utils.BaseTunerLayer._move_adapter_to_device_of_base_layer", _do_nothing),
        ):
            return get_peft_model(
                model,
                build_lora_config(spec.method.adapter, spec.method.adapter.resolved_target_modules),
                autocast_adapter_dtype=not quantised,
            )
    finally:
        torch.set_default_dtype(before)


def _state_bytes(parameter: Any, optimizer: str) -> int:
    """Return the bytes of an optimizer's states of one tensor, as bitsandbytes and torch make them."""
    count = parameter.numel()
    moments = 1 if "lion" in optimizer else 2
    if "8bit" in optimizer:
        return moments * (count + 4 * -(-count // 256) if count >= 4096 else 4 * count)
    return moments * count * (4 if "32bit" in optimizer else parameter.element_size())
