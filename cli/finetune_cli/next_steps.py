"""What a person does next with what a run left behind, as commands that can be copied."""

import shlex
from typing import Final

from finetune_api.artifact import Artifact
from finetune_sdk.run import Run

VLLM_RANK: Final = 16
"""Rank of adapters that vLLM takes without being told."""


def build_next_steps(run: Run) -> list[str]:
    """Return the commands that serve a run's artifacts, by what was asked for; nothing before it has succeeded."""
    if not run.succeeded:
        return []
    by_name = {artifact.name: artifact for artifact in reversed(run.status.artifacts)}
    steps = []
    if "adapter" in by_name:
        steps += _serve_adapter(run, by_name["adapter"])
    for whole in ("model", "merged", "gptq"):
        if whole in by_name:
            steps += [
                _download(run, whole),
                f"vllm serve {shlex.quote(f'./{run.name}-{whole}')} --served-model-name {shlex.quote(run.name)}",
            ]
    if "gguf" in by_name:
        file = f"{run.name}-{run.get('spec.output.gguf.type')}.gguf"
        steps += [_download(run, "gguf"), f"llama-server --model {shlex.quote(f'./{run.name}-gguf/{file}')}"]
    return steps


def _serve_adapter(run: Run, adapter: Artifact) -> list[str]:
    base = str(run.get("spec.model.uri") or adapter.base_model or "")
    model = base.removeprefix("hf://") if base.startswith("hf://") else "BASE_MODEL"
    rank = run.get("spec.method.adapter.r")
    enough = f" --max-lora-rank {rank}" if isinstance(rank, int) and rank > VLLM_RANK else ""
    module = shlex.quote(f"{run.name}=./{run.name}-adapter")
    return [_download(run, "adapter"), f"vllm serve {shlex.quote(model)} --enable-lora{enough} --lora-modules {module}"]


def _download(run: Run, artifact: str) -> str:
    chosen = "" if artifact == "adapter" else f" --artifact {artifact}"
    return f"finetune artifacts download {shlex.quote(run.name)} --namespace {shlex.quote(run.namespace)}{chosen}"
