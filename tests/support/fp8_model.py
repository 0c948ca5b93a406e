"""A tiny model whose weights FP8 holds as they are. Functions here run in a trainer's process: the tests load no torch."""

import shutil
from pathlib import Path


def make_rounded_base(folder: Path) -> None:
    """Write ``folder``'s model in 32 bits, with the weights that it has where it is held in FP8, into ``rounded``."""
    import torch
    from safetensors.torch import load_file, save_file

    from finetune_trainer.model.fp8_linear import round_rows

    tensors = load_file(folder / "model" / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight"):
            values, scale = round_rows(tensor.to(torch.bfloat16))
            tensors[name] = values.float() * scale
    shutil.copytree(folder / "model", folder / "rounded")
    save_file(tensors, folder / "rounded" / "model.safetensors", metadata={"format": "pt"})
