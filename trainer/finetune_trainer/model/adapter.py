"""What is trained: an adapter on the base model, or the base model itself."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peft import get_peft_model
from transformers import set_seed

from finetune_api.spec import AdapterSpec
from finetune_api.spec.adapter import BASE_CHANGING_INITS
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
    try:
        adapted = get_peft_model(model, build_peft_config(spec, model, scores=scores))
    except (ValueError, NotImplementedError, KeyError) as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigInvalid(f"method.adapter: {words}. {list_available(model)}") from error
    for name, parameter in adapted.named_parameters():
        if ".ranknum." in name:  # AdaLoRA's count of ranks: PEFT leaves it trainable, and does not save it
            parameter.requires_grad = False
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
