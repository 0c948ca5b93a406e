"""Loading the base model and its tokenizer from a local folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils.quantization_config import QuantizationConfigMixin

from finetune_api.spec import QuantizationSpec
from finetune_trainer.device import Device
from finetune_trainer.errors import ConfigInvalid, SourceUnavailable
from finetune_trainer.model.quantized_base import is_packed, read_quantization

logger = logging.getLogger(__name__)

_DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def load_tokenizer(folder: Path, uri: str) -> Any:  # noqa: ANN401  transformers has no one type for it
    """Load the tokenizer in ``folder``.

    :raises ConfigInvalid: it can't be loaded; names ``uri``.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        raise ConfigInvalid(f"the tokenizer of {uri} can't be loaded: {_first_line(error)}") from error


def check_architecture(folder: Path, uri: str, *, scores: bool = False) -> Any:  # noqa: ANN401
    """Return the configuration of the model in ``folder`` if it is a causal language model that transformers knows.

    Takes no weights, so it comes before the long work.

    :param scores: it is to become a reward model, which not every architecture can.
    :raises ConfigInvalid: it can't be trained here; says why.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ConfigInvalid(
            f"the architecture of {uri} is not one that this trainer knows, or needs code of its own, which is never run: "
            f"{_first_line(error)}"
        ) from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False):
        names = ", ".join(config.architectures or []) or "no architecture named"
        raise ConfigInvalid(
            f"{uri} is not a causal language model (model_type {config.model_type}, {names}); "
            "name one that generates text from left to right"
        )
    if scores and config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise ConfigInvalid(f"{uri} (model_type {config.model_type}) has no form that scores texts, as the objective reward needs")
    return config


def check_length(config: Any, longest: int, virtual: int, uri: str) -> None:  # noqa: ANN401
    """Check that no example is longer than the model has positions.

    :param longest: tokens of the longest example, after truncation.
    :param virtual: learnt tokens that stand before it.
    :raises ConfigInvalid: one is.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest + virtual > positions:
        more = f" and {virtual} learnt ones before them" if virtual else ""
        raise ConfigInvalid(
            f"training.maxLength lets through examples of {longest} tokens{more}, but {uri} knows {positions} positions; "
            f"set training.maxLength to {positions - virtual} or less"
        )


def build_quantization_config(spec: QuantizationSpec, *, scores: bool = False, divided: bool = False) -> QuantizationConfigMixin | None:
    """Build what bitsandbytes, or our reader of FP8, is told. Every setting is explicit: the library's defaults are fp4 and 32-bit compute.

    :param divided: of a model that will be divided: the packed weights then pass for numbers of the type that the rest has, since only
        such can be divided and gathered with it.
    :param scores: of a reward model, whose head is trained and therefore not quantised.
    """
    kept = {"llm_int8_skip_modules": ["score"]} if scores else {}
    if spec.type in ("nf4", "fp4"):
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type=spec.type,
            bnb_4bit_use_double_quant=spec.double_quant,
            bnb_4bit_compute_dtype=_DTYPES[spec.compute_dtype],
            bnb_4bit_quant_storage=_DTYPES[spec.compute_dtype] if divided else torch.uint8,
            **kept,
        )
    if spec.type == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, **kept)  # type: ignore[no-untyped-call]
    if spec.type == "fp8":
        from finetune_trainer.model.fp8_base import Fp8Config  # noqa: PLC0415  registers itself; few bases need it

        return Fp8Config(["score"] if scores else None)
    return None


def load_model(
    folder: Path,
    uri: str,
    spec: QuantizationSpec,
    device: Device,
    *,
    trains_all: bool = False,
    score_seed: int | None = None,
    divided: bool = False,
) -> Any:  # noqa: ANN401
    """Load the causal language model in ``folder`` onto ``device``, frozen, in the precision that ``spec`` asks for.

    :param score_seed: load it as a reward model, with a head that is initialised by this seed.

    ``prepare_model_for_kbit_training`` is not called. It would lift embeddings, head and norms to 32 bits (2 GiB more for a vocabulary
    of 128k and 4,096 dimensions) and gain nothing: norms and the loss are computed in 32 bits anyway, and the trainer turns on gradient
    checkpointing and input gradients itself. What is not quantised is held in ``computeDtype``.

    :param divided: it will be divided over the processes. One that is not quantised stays on the processor until then, layer by layer; one
        in 4 bits is quantised on the GPU, which must have room for all of it once.
    :param trains_all: the weights themselves will be trained. They are held in 32 bits then, since most steps are too small for 16, and
        multiplied in ``computeDtype``.
    :raises ConfigInvalid: the files and the architecture don't match.
    :raises SourceUnavailable: the weights are damaged.
    """
    from safetensors import SafetensorError  # noqa: PLC0415  typed only where it is used

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    quantized = read_quantization(config) is not None
    config, packed = open_packed(config)
    allow_tf32(device)
    scores = score_seed is not None
    if packed and scores:
        config.num_labels = 1
    if score_seed is not None:
        set_seed(score_seed)
    try:
        with plain_linear_layers(config.model_type):
            model = (AutoModelForSequenceClassification if scores else AutoModelForCausalLM).from_pretrained(
                folder,
                dtype=torch.float32 if trains_all else _DTYPES[spec.compute_dtype],
                quantization_config=None if quantized else build_quantization_config(spec, scores=scores, divided=divided),
                # None: bitsandbytes and the trainer place it on the processor by themselves
                device_map={"": device.index} if device.kind == "cuda" and not (divided and spec.type == "none") else None,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                **({"config": config} if packed else {"num_labels": 1} if scores else {}),
            )
    except SafetensorError as error:
        raise SourceUnavailable(f"the weights of {uri} are damaged: {_first_line(error)}; upload them anew") from error
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise ConfigInvalid(f"{uri} can't be loaded: {_first_line(error)}") from error
    model.requires_grad_(requires_grad=False)
    model.config.use_cache = False
    if spec.type == "fp8" and not quantized:  # a teacher may be, and stays as it is
        from finetune_trainer.model.fp8_base import check_largest  # noqa: PLC0415  loaded with the model

        check_largest(model)
    elif spec.type != "none" and not packed:
        check_quantized(model, uri)
        keep_weights_as_loaded(model)
        _compute_in(model, _DTYPES[spec.compute_dtype])
    if spec.type != "none" and not packed:
        _report_unquantised(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    logger.info("base model loaded: %s, %.0f MiB in %s", model.config.model_type, size / 2**20, "packed weights" if packed else spec.type)
    return model


def open_packed(config: Any) -> tuple[Any, bool]:  # noqa: ANN401  transformers has no one type for it
    """Return ``config`` as transformers is to load by it, and whether it is that of a base which GPTQ, AWQ or this trainer has packed.

    :raises ConfigInvalid: it is packed in a way that is not read.
    """
    found = read_quantization(config)
    if found is None or not is_packed(found):
        return config, False
    from finetune_trainer.model.packed_base import use_packed_reader  # noqa: PLC0415  registers itself; few bases need it

    return use_packed_reader(config, found), True


@contextmanager
def plain_linear_layers(model_type: str) -> Iterator[None]:
    """Build Falcon's linear layers as torch's own for as long as the block runs. They compute the same, but bitsandbytes quantises no
    subclass, and the model would be held in 16 bits without a word.
    """
    if model_type != "falcon":
        yield
        return
    from transformers.models.falcon import modeling_falcon as module  # noqa: PLC0415

    own = module.FalconLinear
    module.FalconLinear = torch.nn.Linear  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        module.FalconLinear = own  # type: ignore[misc]


def check_quantized(model: Any, uri: str) -> None:  # noqa: ANN401
    """:raises ConfigInvalid: bitsandbytes has found no layer to quantise, which it only logs."""
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt  # noqa: PLC0415  seconds to import

    if not any(isinstance(module, (Linear4bit, Linear8bitLt)) for module in model.modules()):
        raise ConfigInvalid(
            f"method.quantization: bitsandbytes quantises no layer of {uri} (model_type {model.config.model_type}), which would be held "
            "in 16 bits; set method.quantization.type to none"
        )


def load_teacher(
    folder: Path,
    uri: str,
    spec: QuantizationSpec,
    device: Device,
    tokenizer: Any,  # noqa: ANN401
    student: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Load the teacher of a distillation, frozen.

    :param tokenizer: the student's.
    :raises ConfigInvalid: it is no causal language model, or its tokens are not the student's: their probabilities can't be compared.
    """
    config = check_architecture(folder, uri)
    theirs, ours = config.get_text_config().vocab_size, student.config.get_text_config().vocab_size
    if theirs != ours or load_tokenizer(folder, uri).get_vocab() != tokenizer.get_vocab():
        raise ConfigInvalid(
            f"method.distill.teacher: {uri} has another vocabulary ({theirs} tokens) than the model ({ours}); name a teacher of the same "
            "family, whose tokenizer is the same"
        )
    return load_model(folder, uri, spec, device).eval()


def keep_weights_as_loaded(model: Any) -> None:  # noqa: ANN401
    """Turn off what bitsandbytes (0.50) does on processors with AVX512-BF16 at the first forward pass without gradients: it repacks the
    4-bit weights in place and rounds their constants to 16 bits, so that one evaluation would change the base model under the adapter.
    It also fails on layers narrower than a block.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def allow_tf32(device: Device) -> None:
    """Let CUDA multiply what is in 32 bits by TF32, where the GPU has it: ten bits of fraction as in float16, several times as fast."""
    if device.kind == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def _compute_in(model: Any, dtype: torch.dtype) -> None:  # noqa: ANN401
    """Set the type that 4-bit layers compute in: a base that was quantised elsewhere has its own."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype


def _report_unquantised(model: Any) -> None:  # noqa: ANN401
    """Say which large weights were passed over: only linear layers are quantised, not experts fused into one tensor."""
    fused = {name: p for name, p in model.named_parameters() if p.ndim >= 3 and p.numel() > 2**20 and p.is_floating_point()}
    if fused:
        size = sum(p.numel() * p.element_size() for p in fused.values()) / 2**30
        logger.warning("%d fused weights (experts) can't be quantised and take %.1f GiB: %s", len(fused), size, next(iter(fused)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
