"""A model with what is trained of it: how that is driven, saved in checkpoints, and published."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from peft import get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from finetune_api.spec import AdapterSpec
from finetune_api.spec.adapter import BASE_CHANGING_INITS, PROMPT_TYPES
from finetune_trainer.errors import ConfigInvalid, LossDiverged
from finetune_trainer.model.initialisation import subtract_initial
from finetune_trainer.model.sharding import divide_like, gather_whole, is_divided, take_local

TRAINED_FILE: Final = "trained.safetensors"
"""File of a checkpoint that holds every trained tensor by its name in the model, as it is."""
ALLOCATOR_FILE: Final = "allocator.safetensors"
RANKS_FILE: Final = "ranks.json"
ORTHOGONAL_WEIGHT: Final = 0.5
"""Weight of AdaLoRA's orthogonal loss, as in its paper's experiments."""
_WARMUP_SHARE: Final = 0.1
_FINAL_SHARE: Final = 0.3
"""Shares of the steps, at the beginning and at the end, in which AdaLoRA leaves the ranks alone."""
_ALLOCATIONS: Final = 100
"""Ranks are shared out anew about this often over a run."""
_AVERAGES: Final = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class AdaptedModel:
    """The model of a run, and the part of it that is trained.

    :param model: a PEFT model; with ``adapter.type`` none, the plain model.
    """

    def __init__(self, model: Any, spec: AdapterSpec) -> None:  # noqa: ANN401
        self.model = model
        self.spec = spec
        self._initial: dict[str, torch.Tensor] | None = None
        self._gathered: dict[str, torch.Tensor] | None = None

    def remember_initial(self) -> None:
        """Keep a copy of the adapter's first value."""
        state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        self._initial = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    # --- Driving

    def keep_small_steps(self) -> None:
        """Hold what is trained in 32 bits where TRL has put it in 16 because the base is quantised.

        LoRA's matrices bear that (arXiv 2305.14314). Factors that begin at 1, singular values and learnt tokens don't: a step of 2e-4
        is lost beside the next number in 16 bits, which is 8e-3 away from 1.
        """
        if self.spec.type == "lora":
            return
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                parameter.data = parameter.data.to(torch.float32)

    def begin(self, total_steps: int) -> None:
        """The number of optimizer steps is known."""
        if self.spec.type == "adalora":
            config = self.model.peft_config["default"]
            config.total_step = total_steps
            config.tinit = int(_WARMUP_SHARE * total_steps)
            config.tfinal = int(_FINAL_SHARE * total_steps)
            config.deltaT = max(1, total_steps // _ALLOCATIONS)

    def end_step(self, step: int) -> None:
        """Optimizer step ``step``, counted from 1, is done, and its gradients are still there: share out AdaLoRA's ranks."""
        if self.spec.type == "adalora":
            self.model.base_model.update_and_allocate(step)

    def compute_extra_loss(self) -> torch.Tensor | None:
        """Return what the adapter adds to the loss of a step: AdaLoRA's penalty for singular vectors that are not orthogonal. PEFT adds it
        to the loss that the model computes, but the trainer's own loss passes that by.
        """
        if self.spec.type != "adalora":
            return None
        terms = []
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and ("lora_A" in name or "lora_B" in name):
                vectors = parameter if "lora_A" in name else parameter.T
                product = vectors @ vectors.T
                terms.append(torch.linalg.matrix_norm(product - torch.eye(len(product), dtype=product.dtype, device=product.device)))
        return ORTHOGONAL_WEIGHT * torch.stack(terms).mean()

    @contextlib.contextmanager
    def as_base(self) -> Iterator[None]:
        """Answer as the base model does, for as long as the block runs and nothing is trained yet.

        Only learnt tokens need it: every other adapter begins without an effect.
        """
        with self.model.disable_adapter() if self.spec.type in PROMPT_TYPES else contextlib.nullcontext():
            yield

    # --- Checkpoints

    def save(self, folder: Path, *, writes: bool = True) -> None:
        """Save all that training goes on from into ``folder``, bit by bit. Where the model is divided, all processes must do so.

        :param writes: whether this process writes; one that does not gives its part to those that do.
        :raises LossDiverged: a number in it is not finite.
        """
        self.check_finite()
        trained = self._collect_trained(writes=writes)
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained, folder / TRAINED_FILE)
        if self.spec.type == "adalora":
            allocator = self.model.base_model.rankallocator
            averages = {f"{kind}/{name}": tensor.contiguous() for kind in _AVERAGES for name, tensor in getattr(allocator, kind).items()}
            save_file(averages, folder / ALLOCATOR_FILE)
            (folder / RANKS_FILE).write_text(json.dumps(self.model.peft_config["default"].rank_pattern), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up what :meth:`save` wrote into ``folder``, each tensor in the type that it has here.

        :raises ConfigInvalid: it is another adapter.
        """
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        file = folder / TRAINED_FILE
        if not file.is_file():
            raise _other_adapter(min(trained))
        with torch.no_grad(), safe_open(file, framework="pt") as tensors:
            if differing := set(trained) ^ set(tensors.keys()):
                raise _other_adapter(min(differing))
            for name, parameter in trained.items():
                if list(parameter.shape) != tensors.get_slice(name).get_shape():
                    raise _other_adapter(name)
            for name, parameter in trained.items():
                parameter.copy_(divide_like(tensors.get_tensor(name), parameter))
        if self.spec.type == "adalora":
            allocator = self.model.base_model.rankallocator
            devices = {name: parameter.device for name, parameter in trained.items()}
            for key, tensor in load_file(folder / ALLOCATOR_FILE, device="cpu").items():
                kind, name = key.split("/", 1)
                getattr(allocator, kind)[name] = tensor.to(devices.get(name, "cpu"))
            self.model.peft_config["default"].rank_pattern = json.loads((folder / RANKS_FILE).read_text(encoding="utf-8"))

    def check_finite(self) -> None:
        """:raises LossDiverged: a trained number is not finite."""
        trained = ((name, take_local(each)) for name, each in self.model.named_parameters() if each.requires_grad)
        faults = [name for name, each in trained if not bool(torch.isfinite(each).all())]
        if faults:
            raise LossDiverged(
                f"{len(faults)} trained weights hold numbers that are not finite ({faults[0]}); they are not saved. "
                "Lower training.learningRate"
            )

    def _collect_trained(self, *, writes: bool) -> dict[str, torch.Tensor]:
        trained: dict[str, torch.Tensor] = {}
        for name, each in self.model.named_parameters():
            if each.requires_grad:
                whole = gather_whole(each.detach())
                if writes:
                    trained[name] = whole.contiguous()
        return trained

    # --- Publishing

    def gather(self, *, writes: bool) -> None:
        """Bring together what :meth:`publish` needs of the other processes: the whole model, in 16 bits, after full fine-tuning of one
        that is divided. All processes must do so; those that don't publish keep none of it.
        """
        if self.spec.type != "none" or not is_divided(self.model):
            return
        gathered: dict[str, torch.Tensor] = {}
        seen: dict[int, torch.Tensor] = {}
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        for name, held in self.model.state_dict().items():
            key = id(parameters.get(name, held))
            if key not in seen:  # tied weights are one
                whole = _halve(gather_whole(held))
                seen[key] = whole if writes else torch.empty(0)
            if writes:
                gathered[name] = seen[key]
        self._gathered = gathered

    def publish(self, folder: Path, base_name: str, revision: str | None) -> None:
        """Write the adapter into ``folder`` as PEFT loads it onto the base as it was; with ``adapter.type`` none, the whole model.

        :raises LossDiverged: a number in it is not finite.
        """
        self.check_finite()
        if self.spec.type == "none":
            self._publish_model(folder)
            return
        config = self.model.peft_config["default"]
        config.base_model_name_or_path = base_name
        config.revision = revision
        # "auto" would ask a hub about the base model's vocabulary; no embedding is ever trained here
        self.model.save_pretrained(folder, save_embedding_layers=False)
        if self.spec.init in BASE_CHANGING_INITS and self._initial is not None:
            tensors = get_peft_model_state_dict(self.model, save_embedding_layers=False)
            on_cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
            save_file(subtract_initial(on_cpu, self._initial), folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
            doubled = copy.copy(config)
            doubled.r, doubled.lora_alpha, doubled.init_lora_weights, doubled.inference_mode = (
                2 * config.r,
                2 * config.lora_alpha,
                True,
                True,
            )
            doubled.save_pretrained(str(folder))
        elif self.spec.init == "eva":  # its values are in the tensors; a reader must not ask for the data again
            plain = copy.copy(config)
            plain.init_lora_weights, plain.eva_config, plain.inference_mode = True, None, True
            plain.save_pretrained(str(folder))
        _order_config(folder / CONFIG_NAME)

    def _publish_model(self, folder: Path) -> None:
        """Write the whole model in 16 bits; it is trained in 32."""
        if self._gathered is not None:
            state = self._gathered
        else:
            halved: dict[int, torch.Tensor] = {}  # by address, so that tied weights stay one
            state = {name: halved.setdefault(held.data_ptr(), _halve(held)) for name, held in self.model.state_dict().items()}
        self.model.save_pretrained(folder, state_dict=state)
        file = folder / "config.json"
        written = json.loads(file.read_text(encoding="utf-8")) | {"dtype": "bfloat16", "use_cache": True}
        file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _order_config(file: Path) -> None:
    """Put what PEFT holds in sets into an order: they have another one in each process, and the same adapter would have another digest."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config.get(name), list):
            config[name].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _halve(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.bfloat16) if tensor.is_floating_point() else tensor


def _other_adapter(name: str) -> ConfigInvalid:
    return ConfigInvalid(f"the checkpoint has another adapter than the configuration asks for; they differ in {name}")
