"""Dividing a model over the processes of a run (FSDP2), and reading whole what is divided.

Only the base model is divided: it is frozen and large. An adapter is small, so that each process keeps all of it, and everything that
drives, saves and publishes adapters does so as if nothing were divided. In full fine-tuning all weights are the base model's.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from finetune_api.spec.method import ComputeDtype
from finetune_trainer.device import Device
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.model.layers import list_layers

logger = logging.getLogger(__name__)

_HALVES: Final = {"bfloat16": torch.bfloat16}


def build_mesh(device: Device) -> DeviceMesh:
    """Return the processes that divide the model between them: all. All must ask at the same point."""
    return init_device_mesh(device.kind, (dist.get_world_size(),))


def divide_model(
    model: Any,  # noqa: ANN401
    base: list[nn.Parameter],
    device: Device,
    mesh: DeviceMesh,
    compute_dtype: ComputeDtype,
    *,
    keeps_gathered: bool = False,
    offloads: bool = False,
) -> None:
    """Divide ``model`` in place: each decoder layer is gathered while it computes; embeddings, head and what is beside the layers, for
    the whole of a pass. Every process must hold the same model, on the processor or on its own device, and keeps a part on its device.
    Nothing is exchanged yet.

    :param model: what a step calls: a PEFT model, or the plain one.
    :param base: the parameters to divide: those of the base model. All others stay whole. The list is emptied: whoever held it would hold
        the whole model on the device until the end.
    :param keeps_gathered: what a forward pass gathers stays until the backward pass is done with it; without, it is gathered anew.
    :param offloads: the parts lie in the node's memory, and so do their gradients and what an optimizer makes for them.
    :raises ConfigInvalid: its decoder layers can't be told.
    """
    layers = find_layers(model)
    divided = {id(parameter) for parameter in base}
    whole = [parameter for parameter in model.parameters() if id(parameter) not in divided]
    base.clear()
    target = torch.device(device.kind, device.index) if device.kind == "cuda" else torch.device("cpu")
    for parameter in whole:
        parameter.data = parameter.data.to(target)
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True, "ignored_params": set(whole)}
    if not whole and compute_dtype in _HALVES:
        # Trained weights are held in 32 bits. Autocast would keep a 16-bit copy of every layer until the end of the pass.
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=_HALVES[compute_dtype], reduce_dtype=torch.float32)
    if offloads:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=device.kind == "cuda")
        _tell_device(model)
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    if keeps_gathered:
        _keep_gathered(model)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")
    parts_of_all = [parameter for parameter in model.parameters() if isinstance(parameter, DTensor)]
    held, total = (sum(each.numel() * each.element_size() for each in some) for some in (map(take_local, parts_of_all), parts_of_all))
    parts = f"{held / 2**20:.2f} of {total / 2**20:.2f} MiB in each"
    where = ", in the node's memory" if offloads else ""
    logger.info("the base model is divided over %d processes by %d layers: %s%s", dist.get_world_size(), len(layers), parts, where)


def _keep_gathered(model: Any) -> None:  # noqa: ANN401
    """Let passes that a backward pass follows leave what they have gathered, and no others: whoever reads the parameters between steps
    would find copies that the next step throws away.
    """
    keeps = False

    def choose(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal keeps
        del module, inputs
        if keeps != torch.is_grad_enabled():
            keeps = not keeps
            model.set_reshard_after_forward(not keeps)

    model.register_forward_pre_hook(choose, prepend=True)  # before FSDP's own


def _tell_device(model: Any) -> None:  # noqa: ANN401
    """Let ``model.device`` be where the model computes. transformers and PEFT move inputs there, and would ask its first weight, which lies
    in the node's memory.
    """
    named = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = type(named)
    named.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, "device": property(find_device)})


def share_whole(model: nn.Module) -> None:
    """Give every process the first one's values of what is not divided, as DDP does: an initialisation may differ between machines in its
    last bits. All processes must ask at the same point.
    """
    for parameter in model.parameters():
        if not isinstance(parameter, DTensor):
            dist.broadcast(parameter.data, src=0)


def find_layers(model: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of ``model``.

    :raises ConfigInvalid: it has none that transformers marks as such.
    """
    found = list_layers(model)
    if not found:
        raise ConfigInvalid(
            "training.sharding: the layers of this model can't be told from the rest, so that it can't be divided; set it to none"
        )
    return found


def is_divided(model: nn.Module) -> bool:
    """Whether :func:`divide_model` has divided ``model``."""
    return isinstance(model, FSDPModule)


def find_device(model: nn.Module) -> torch.device:
    """Return the device that ``model`` computes on; the parts of one that is divided may lie elsewhere."""
    first = next(model.parameters())
    if not isinstance(first, DTensor) or first.device.type == (kind := first.device_mesh.device_type):
        return first.device
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, torch.get_device_module(kind).current_device())


def take_local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of ``tensor`` that this process holds; all of it where it is not divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather_whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` whole; one that is divided, on the processor. All processes must ask at the same point."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def divide_like(tensor: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """Return ``tensor``, which is whole in every process, divided as ``example`` is, in its type and where its parts lie. Nothing is
    exchanged, and no more than a part of it is copied.
    """
    if not isinstance(example, DTensor):
        return tensor.to(device=example.device, dtype=example.dtype)
    # Not by distribute_tensor, which takes the whole tensor to the mesh's device, and leaves the part there
    divided = torch.empty_like(example.detach())
    pieces, rank = tensor.chunk(example.device_mesh.size()), example.device_mesh.get_local_rank()
    if rank < len(pieces):  # one with fewer rows than there are processes is not in all of them
        take_local(divided).copy_(pieces[rank])
    return divided


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient of the ``parameters``, which are whole in every process, by the mean over the processes, in one exchange.

    A parameter that a process has not used counts as 0 there; one that none has used keeps no gradient.
    """
    whole = [parameter for parameter in parameters if parameter.requires_grad and not isinstance(parameter, DTensor)]
    if not whole:
        return
    device = whole[0].device
    pieces = [
        torch.zeros(each.numel(), device=device) if each.grad is None else each.grad.detach().reshape(-1).to(torch.float32)
        for each in whole
    ]
    used = torch.tensor([float(each.grad is not None) for each in whole], device=device)
    flat = torch.cat([*pieces, used])
    dist.all_reduce(flat)
    used = flat[-len(whole) :].cpu()
    flat /= dist.get_world_size()
    begin = 0
    for number, each in enumerate(whole):
        mean = flat[begin : begin + each.numel()]
        begin += each.numel()
        if used[number]:
            mean = mean.view_as(each).to(each.dtype)
            if each.grad is None:
                each.grad = mean.clone()
            else:
                each.grad.copy_(mean)


def gather_optimizer_state(state: Mapping[str, Any], *, keeps: bool) -> dict[str, Any]:
    """Return an optimizer's state dictionary with every tensor whole, as of a run whose model is not divided. All processes must ask.

    :param keeps: whether this process wants it; one that does not gives its parts, one after the other, and gets nothing.
    """
    whole: dict[int, dict[str, Any]] = {}
    for key, each in state["state"].items():
        for name, value in each.items():
            gathered = gather_whole(value) if isinstance(value, torch.Tensor) else value
            if keeps:
                whole.setdefault(key, {})[name] = gathered
    return {**state, "state": whole}


def divide_optimizer_state(state: Mapping[str, Any], parameters: list[nn.Parameter]) -> dict[str, Any]:
    """Return the opposite of :func:`gather_optimizer_state`.

    :param parameters: those of the optimizer, in its order.
    """

    def divide(key: int, value: Any) -> Any:  # noqa: ANN401
        parameter = parameters[key]
        fits = isinstance(value, torch.Tensor) and not isinstance(value, DTensor) and value.shape == parameter.shape and value.ndim > 0
        return divide_like(value, parameter) if fits else value

    return {**state, "state": {key: {name: divide(key, value) for name, value in each.items()} for key, each in state["state"].items()}}
