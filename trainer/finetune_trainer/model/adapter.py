"""What is trained: an adapter on the base model, or the base model itself."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from peft.tuners.ia3 import IA3Layer
from transformers import set_seed

from finetune_api.spec import AdapterSpec
from finetune_api.spec.adapter import BASE_CHANGING_INITS, PROMPT_TYPES
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.model.adapted import AdaptedModel
from finetune_trainer.model.initialisation import initialise_eva, initialise_loftq
from finetune_trainer.model.peft_configs import build_peft_config
from finetune_trainer.model.targets import check_targets, list_available

logger = logging.getLogger(__name__)


def add_adapter(
    model: Any,  # noqa: ANN401  PEFT is not typed
    spec: AdapterSpec,
    seed: int,
    folder: Path,
    rows: Iterable[Mapping[str, list[int]]],
    *,
    scores: bool = False,
) -> AdaptedModel:
    """Return ``model`` with a fresh adapter, initialised by ``seed``: the same each time from the same base, data and settings.

    :param folder: files of the base model, as it was before it was quantised.
    :param rows: tokenised examples, for initialisations from the data.
    :param scores: on a reward model, whose head is trained whole and saved with the adapter.
    :raises ConfigInvalid: ``targetModules`` names what the model doesn't have, or what can't be adapted; lists what it has.
    """
    set_seed(seed)
    if spec.type == "none":
        model.requires_grad_(requires_grad=True)
        logger.info("full fine-tuning: all %s parameters are trained", f"{model.num_parameters():,}")
        return AdaptedModel(model, spec)
    check_targets(model, spec)
    leave_routers_alone(model)
    available = list_available(model)  # before PEFT puts layers of its own into it
    try:
        adapted = get_peft_model(model, build_peft_config(spec, model, scores=scores))
    except (ValueError, NotImplementedError, KeyError) as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigInvalid(f"method.adapter: {words}. {available}") from error
    for name, parameter in adapted.named_parameters():
        if ".ranknum." in name:  # AdaLoRA's count of ranks: PEFT leaves it trainable, and does not save it
            parameter.requires_grad = False
    keep_types(adapted)
    if spec.type in PROMPT_TYPES:
        check_prompt(adapted, spec)
    if spec.init == "loftq":
        initialise_loftq(adapted, folder)
    elif spec.init == "eva":
        initialise_eva(adapted, rows, model.device)
    trainable, total = adapted.get_nb_trainable_parameters()
    logger.info("adapter %s: %s of %s parameters are trained", spec.type, f"{trainable:,}", f"{total:,}")
    result = AdaptedModel(adapted, spec)
    if spec.init in BASE_CHANGING_INITS:
        result.remember_initial()
    return result


def leave_routers_alone(model: Any) -> None:  # noqa: ANN401
    """Turn off the loss that spreads tokens over experts. It is for training routers, which are frozen under an adapter, and TRL would add
    it to every loss: the held-out loss would be no likelihood any more, and prefix tuning would fail on its shapes.
    """
    config = model.config.get_text_config()
    if hasattr(config, "router_aux_loss_coef"):
        config.router_aux_loss_coef = 0.0
        config.output_router_logits = False


def keep_types(model: Any) -> None:  # noqa: ANN401
    """Let what comes out of (IA)3's layers have the type of what went in. PEFT (0.21) leaves it in 32 bits on quantised layers, which
    the layers in 16 bits that come after it don't take.
    """
    for module in model.modules():
        if isinstance(module, IA3Layer):
            module.register_forward_hook(_keep_type)  # type: ignore[attr-defined]  # each one is a module, too


def _keep_type(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    del module
    return output.to(inputs[0].dtype)


def check_prompt(adapted: Any, spec: AdapterSpec) -> None:  # noqa: ANN401
    """Check that the architecture takes learnt tokens, by a forward pass over a few.

    :raises ConfigInvalid: it does not.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=adapted.device)
    training = adapted.training
    adapted.eval()
    try:
        with torch.no_grad():
            adapted(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise ConfigInvalid(
            f"method.adapter.type: {spec.type} does not fit models of type {adapted.config.model_type} "
            f"({str(error).splitlines()[0][:200]}); use another type, such as lora"
        ) from error
    finally:
        adapted.train(training)
