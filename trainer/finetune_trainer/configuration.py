"""Reading the trainer's configuration: from the environment in a pod, from a file in a local run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import ValidationError

from finetune_api.names import ENV_CONFIG, ENV_PACKED_ATTENTION
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.errors import ConfigInvalid

PackedAttention = Literal["auto", "mask"]
"""By what packed examples are told apart: what the device can do best, or a mask."""


def read_packed_attention(environ: Mapping[str, str]) -> PackedAttention:
    """Return what the variable ``PACKED_ATTENTION`` asks for.

    :raises ConfigInvalid: it is no such word.
    """
    told = environ.get(ENV_PACKED_ATTENTION, "auto")
    for word in get_args(PackedAttention):
        if told == word:
            found: PackedAttention = word
            return found
    raise ConfigInvalid(f"pod.env: {ENV_PACKED_ATTENTION} is {told}; set it to auto or mask, or leave it out")


def read_config(file: Path | None, environ: Mapping[str, str]) -> TrainerConfig:
    """Return the configuration in ``file`` (JSON or YAML), or without one that in the variable ``FINETUNE_CONFIG`` (JSON).

    :raises ConfigInvalid: there is none, or it is not valid; the message names each field.
    """
    source = ENV_CONFIG if file is None else str(file)
    if file is None:
        text = environ.get(ENV_CONFIG, "")
        if not text:
            raise ConfigInvalid(f"no configuration: set the environment variable {ENV_CONFIG}, or name a file with --config")
    else:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{source} can't be read: {error}") from None
    try:
        # JSON is YAML; the JSON parser goes first, since it is exact and names the place of a fault
        if file is None or file.suffix == ".json":
            return TrainerConfig.model_validate_json(text)
        return TrainerConfig.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigInvalid(f"{source} is not YAML: {error}") from None
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise ConfigInvalid(f"{source} is not a valid configuration: {faults}") from None
