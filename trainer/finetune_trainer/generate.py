"""``python -m finetune_trainer.generate OPTIONS``: answers prompts by a base model, without and with an adapter.

Told by one argument of JSON what to load. Says ``{"model": …, "device": …}`` once it is ready; then reads a line ``{"prompt": …}`` and
writes a line ``{"base": …, "adapter": …}`` for each, until its input ends. What goes wrong is a line ``{"error": …}``.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from finetune_api.artifact import MANIFEST_NAME, ArtifactManifest
from finetune_api.names import ENV_PREFIX_MODEL
from finetune_api.spec import ModelSpec, QuantizationSpec
from finetune_trainer.device import Device, check_device
from finetune_trainer.errors import ConfigInvalid, TrainerError
from finetune_trainer.storage import Credentials

DEFAULT_SEED: Final = 42


def main() -> None:
    """Load, then answer until the input ends. Exits by 1 where something can't be loaded."""
    try:
        answering = Answering(json.loads(sys.argv[1]))
    except TrainerError as error:
        _say({"error": error.message})
        sys.exit(1)
    _say({"model": answering.model_uri, "device": answering.device})
    for line in sys.stdin:
        _say(answering.answer(str(json.loads(line)["prompt"])))


class Answering:
    """A base model with an adapter that can be put aside."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Load base and adapter.

        :raises TrainerError: one can't be loaded; says why.
        """
        self._options = options
        adapter = Path(str(options["adapter"]))
        model, quantization = _choose(options, adapter)
        self.model_uri = model.uri
        self._load(model, quantization, adapter)

    def _load(self, model: ModelSpec, quantization: QuantizationSpec, adapter: Path) -> None:
        import torch  # noqa: PLC0415  seconds to import: a fault of the options is said before
        from peft import PeftModel  # noqa: PLC0415
        from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

        from finetune_trainer.model.adapter import keep_types  # noqa: PLC0415
        from finetune_trainer.model.loading import (  # noqa: PLC0415
            build_quantization_config,
            keep_weights_as_loaded,
            load_tokenizer,
            open_packed,
            plain_linear_layers,
        )
        from finetune_trainer.storage.models import fetch_model  # noqa: PLC0415

        cuda = torch.cuda.is_available() and not self._options.get("cpu")
        if cuda:
            check_device(Device("cuda", torch.cuda.get_device_name(0)), quantization.type)
        cache = Path(os.environ.get("FINETUNE_CACHE", Path(tempfile.gettempdir(), f"finetune-{os.getuid()}")))
        base = fetch_model(model, Credentials.from_environ(ENV_PREFIX_MODEL), cache / "model" / model.uri.replace("/", "_"))
        self._tokenizer = load_tokenizer(adapter if (adapter / "tokenizer_config.json").is_file() else base.path, model.uri)
        try:
            config = AutoConfig.from_pretrained(base.path, trust_remote_code=False, local_files_only=True)
            config, packed = open_packed(config)
            with plain_linear_layers(config.model_type):
                loaded = AutoModelForCausalLM.from_pretrained(
                    base.path,
                    dtype=getattr(torch, quantization.compute_dtype),
                    quantization_config=None if packed else build_quantization_config(quantization),
                    device_map=({"": 0} if packed else "auto") if cuda else None,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    **({"config": config} if packed else {}),
                )
            if quantization.type != "none" and not packed:
                keep_weights_as_loaded(loaded)
            self._model = PeftModel.from_pretrained(loaded, str(adapter), local_files_only=True)
        except (ValueError, OSError, KeyError, RuntimeError, ImportError) as error:
            raise ConfigInvalid(f"{model.uri} with the adapter {adapter} can't be loaded: {str(error).splitlines()[0]}") from error
        keep_types(self._model)
        self._model.eval()
        self.device = torch.cuda.get_device_name(0) if cuda else "cpu"

    def answer(self, prompt: str) -> dict[str, str]:
        """Return the answers of both."""
        with self._model.disable_adapter():
            base = self._generate(prompt)
        return {"base": base, "adapter": self._generate(prompt)}

    def _generate(self, prompt: str) -> str:
        import torch  # noqa: PLC0415  loaded by now
        from transformers import set_seed  # noqa: PLC0415

        temperature = float(self._options.get("temperature", 0))
        sampling = {"do_sample": True, "temperature": temperature, "top_p": float(self._options.get("topP", 1))} if temperature else {}
        encoded = self._encode(prompt).to(self._model.device)
        set_seed(int(self._options.get("seed", DEFAULT_SEED)))
        with torch.inference_mode():
            output = self._model.generate(  # type: ignore[no-untyped-call]
                input_ids=encoded,
                attention_mask=torch.ones_like(encoded),
                max_new_tokens=int(self._options.get("maxTokens", 128)),
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                **({"do_sample": False} | sampling),
            )
        return str(self._tokenizer.decode(output[0, encoded.shape[1] :], skip_special_tokens=True)).strip()

    def _encode(self, prompt: str) -> Any:  # noqa: ANN401  # a tensor; torch is not loaded with this module
        if self._tokenizer.chat_template and not self._options.get("raw"):
            conversation = [{"role": "user", "content": prompt}]
            return self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        return self._tokenizer(prompt, return_tensors="pt").input_ids


def _choose(options: Mapping[str, Any], adapter: Path) -> tuple[ModelSpec, QuantizationSpec]:
    """Return the base model: the one named, or the one that the adapter's manifest names."""
    if not (adapter / "adapter_config.json").is_file():
        raise ConfigInvalid(f"{adapter} holds no adapter: adapter_config.json is missing")
    named = options.get("model")
    try:
        if named:
            path = Path(str(named))
            model = ModelSpec(uri=path.absolute().as_uri() if path.is_dir() else str(named))
        else:
            manifest = ArtifactManifest.model_validate_json((adapter / MANIFEST_NAME).read_bytes())
            model = TypeAdapter(ModelSpec).validate_python(manifest.config["model"])
        quantization = QuantizationSpec.model_validate({"type": options.get("quantization", "nf4")})
    except OSError:
        raise ConfigInvalid(f"{adapter} has no {MANIFEST_NAME} that names the base model; name it with --model") from None
    except (ValidationError, KeyError) as error:
        raise ConfigInvalid(f"base model or quantisation: {error}") from None
    return model, quantization


def _say(words: Mapping[str, str]) -> None:
    sys.stdout.write(json.dumps(words, ensure_ascii=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
