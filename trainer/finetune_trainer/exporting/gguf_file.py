"""Writing a merged model as one GGUF file, and reading it back."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from finetune_api.spec.output import GgufType
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.exporting.gguf_support import GgufKind

logger = logging.getLogger(__name__)

_TYPES: Final = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_LARGEST_ERROR: Final = {"f32": 1e-7, "f16": 1e-3, "bf16": 1e-2, "q8_0": 1e-2}
"""Largest relative error (norm of the difference over the norm) of a tensor that is read back."""
_ARCHITECTURES: Final = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}
_BLOCK: Final = 32
"""Weights that share a scale in `q8_0`; a row that is no multiple of it is held in 16 bits."""


def write_gguf(folder: Path, target: Path, name: str, kind: GgufKind, type_: GgufType) -> None:
    """Write the model in ``folder`` to the file ``target``, a tensor at a time, and compare every tensor with what is read back.

    :raises ConfigInvalid: a tensor has no name in GGUF, or what is read back differs.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    writer = gguf.GGUFWriter(target, kind.architecture)
    try:
        _add_settings(writer, config, name, type_)
        _add_tokenizer(writer, folder, kind, config.vocab_size)
        names = gguf.get_tensor_name_map(_ARCHITECTURES[kind.architecture], config.num_hidden_layers)
        for source, tensor in read_tensors(folder):
            known = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if known is None:
                raise ConfigInvalid(f"output.gguf: the tensor {source} has no name in GGUF's architecture {kind.architecture}")
            data, stored = _encode(_arrange(source, tensor, config, kind), type_)
            writer.add_tensor_info(known, data.shape, data.dtype, data.nbytes, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for source, tensor in read_tensors(folder):  # once more, in the same order: no more than one tensor is ever in memory
            writer.write_tensor_data(_encode(_arrange(source, tensor, config, kind), type_)[0])
    finally:
        writer.close()
    check_written(folder, target, kind, type_)


def check_written(folder: Path, target: Path, kind: GgufKind, type_: GgufType) -> None:
    """Read ``target`` and compare every tensor with its source in ``folder``.

    :raises ConfigInvalid: one is missing, too many, or differs by more than its type explains.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    names = gguf.get_tensor_name_map(_ARCHITECTURES[kind.architecture], config.num_hidden_layers)
    written = {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}
    for source, tensor in read_tensors(folder):
        found = written.pop(names.get_name(source, try_suffixes=(".weight", ".bias")) or "", None)
        if found is None:
            raise ConfigInvalid(f"output.gguf: {target.name} lacks {source}")
        expected = _arrange(source, tensor, config, kind)
        got = np.asarray(dequantize(found.data, found.tensor_type)).reshape(expected.shape)
        size = float(np.linalg.norm(expected)) or 1.0
        if float(np.linalg.norm(got - expected)) / size > _LARGEST_ERROR[type_]:
            raise ConfigInvalid(f"output.gguf: {source}, read back from {target.name}, differs from the merged model; it is not published")
    if written:
        raise ConfigInvalid(f"output.gguf: {target.name} has tensors that the model has not: {', '.join(sorted(written)[:5])}")
    logger.info("%s: every tensor read back, %.0f MiB", target.name, target.stat().st_size / 2**20)


def _add_settings(writer: Any, config: Any, name: str, type_: GgufType) -> None:  # noqa: ANN401
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    theta: Any = (getattr(config, "rope_parameters", None) or {}).get("rope_theta") or getattr(config, "rope_theta", 10_000.0)
    writer.add_name(name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(_TYPES[type_][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(theta))
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, folder: Path, kind: GgufKind, size: int) -> None:  # noqa: ANN401
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens: list[str] = []
    types: list[int] = []
    for number in range(size):
        token = by_id.get(number)
        if token is None:
            tokens.append(f"[PAD{number}]")
            types.append(gguf.TokenType.UNUSED)
        else:
            tokens.append(token)
            special = number in added and added[number].special
            types.append(gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED if number in added else gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind.pretokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    gguf.SpecialVocab(folder, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and value of each tensor in the safetensors files of ``folder``."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no mapping
                if not name.endswith("rotary_emb.inv_freq"):
                    yield name, tensors.get_tensor(name)


def _arrange(name: str, tensor: torch.Tensor, config: Any, kind: GgufKind) -> "np.ndarray[Any, np.dtype[np.float32]]":  # noqa: ANN401
    """Return ``tensor`` in 32 bits; queries and keys of Llama in GGUF's order, which has what is turned together side by side."""
    data = tensor.to(torch.float32).numpy()
    if kind.architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")):
        heads = config.num_attention_heads if ".q_proj." in name else getattr(config, "num_key_value_heads", config.num_attention_heads)
        pairs = data.reshape(heads, 2, data.shape[0] // heads // 2, *data.shape[1:])
        data = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(data.shape))
    return data


def _encode(data: "np.ndarray[Any, np.dtype[np.float32]]", type_: GgufType) -> tuple[Any, Any]:
    stored = _TYPES[type_][0]
    if data.ndim == 1:
        stored = gguf.GGMLQuantizationType.F32
    elif stored == gguf.GGMLQuantizationType.Q8_0 and data.shape[-1] % _BLOCK:
        stored = gguf.GGMLQuantizationType.F16
    return quantize(data, stored), stored
