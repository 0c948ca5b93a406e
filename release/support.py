"""``python -m release.support [--check]``: docs/reference/support.md, from the versions that the tests are locked to."""

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

from finetune_devcluster.binaries import KUBERNETES_VERSION
from finetune_devcluster.schemas import RELEASES
from release.sbom import PYTHON
from release.version import ROOT

PAGE: Final = ROOT / "docs" / "reference" / "support.md"
_LIBRARIES: Final = {
    "Operator": ("kopf", "aiohttp", "pydantic"),
    "Trainer": ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "safetensors"),
    "Trackers": ("mlflow-skinny", "tensorboard", "wandb"),
}
_MODULES: Final = {
    "Kueue": (
        "kueue",
        "sigs.k8s.io/kueue",
        "`make kueue`: its own controller against the real API server; `make test` plays its part by a stand-in",
    ),
    "Prometheus": (
        "prometheus",
        "github.com/prometheus/prometheus",
        "`make monitoring`: scrapes the operator, evaluates alerts and dashboard",
    ),
    "Helm": ("helm", "helm.sh/helm/v3", "`make test`: lints, renders, installs, upgrades and uninstalls the chart"),
}
_ALIKE: Final = "the weights are those that its parts say, to the last bit"
_PACKED_BASES: Final = (
    (
        "GPTQ, 4 bits, groups in another order (`desc_act`)",
        "LoRA, AdaLoRA, (IA)3, prompt tuning and `init: eva` give the losses of the same weights in 32 bits; a reward model; two processes "
        "learn what one does",
        "`make trainer`",
    ),
    ("AWQ, 4 bits, `gemm`", "DoRA gives the losses of the same weights in 32 bits", "`make trainer`"),
    ("compressed-tensors, 4 bits, as `output.gptq` writes it", "LoRA on what a run has published", "`make trainer`"),
    ("GPTQ, 4 and 8 bits, `gptq` and `gptq_v2`", f"{_ALIKE}; no run", "`make trainer` (its unit tests)"),
    (
        "compressed-tensors, 4 and 8 bits, symmetric or not",
        "the weights are those that its own library makes, to the last bit; no run but the one above",
        "`make trainer` (its unit tests)",
    ),
)


def render_page(root: Path = ROOT) -> str:
    """Return the page."""
    with (root / "uv.lock").open("rb") as file:
        locked = tomllib.load(file)["package"]
    rows = [f"| Kubernetes {KUBERNETES_VERSION[1:]} | real API server, scheduler, controllers, kubelet and containers | `make test` |"]
    rows += [
        f"| Kubernetes {release[1:]} | every object that the chart renders fits the release's schemas | `make test` (kubeconform) |"
        for release in RELEASES
        if release != KUBERNETES_VERSION
    ]
    for name, (folder, module, how) in _MODULES.items():
        rows.append(f"| {name} {_read_module(root, folder, module)} | {how.partition(': ')[2]} | {how.partition(': ')[0]} |")
    minimum = tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"]
    libraries = [
        f"| {part} | {name} | {', '.join(sorted(each['version'] for each in locked if each['name'] == name))} |"
        for part, names in _LIBRARIES.items()
        for name in names
    ]
    return "\n".join(
        [
            "<!-- Generated from the locks by `python -m release.support`. Do not edit. -->",
            "# What is supported",
            "",
            "Only what the tests of this tree run is listed as tested, with how. What is not listed may well work; nobody has looked.",
            "",
            "## Clusters",
            "",
            "| what | tested how | by |",
            "| --- | --- | --- |",
            *rows,
            "",
            "The chart refuses Kubernetes older than 1.33. On 1.33, 1.34 and 1.36 no run has been trained by these tests.",
            "",
            "## Python",
            "",
            f"The images have Python {PYTHON}; the project asks for {minimum}, and the tests run on whichever of these starts them.",
            "",
            "## Libraries",
            "",
            "What the images have, exactly: `uv.lock`. The bills of materials (`make sbom`) list the rest.",
            "",
            "| part | library | version |",
            "| --- | --- | --- |",
            *libraries,
            "",
            "## Bases that are quantised already",
            "",
            "On the CPU, on a tiny Llama. What is read, and what is refused:",
            "[Choosing a method](../guide/methods.md#bases-that-are-quantised-already).",
            "",
            "| base | tested how | by |",
            "| --- | --- | --- |",
            *(f"| {base} | {how} | {by} |" for base, how, by in _PACKED_BASES),
            "",
            "No base that somebody else has published was trained, and none of another family; models whose experts are fused are refused.",
            "",
            "## GPUs",
            "",
            "**No test of this project runs on a GPU.** `make test` trains on the CPU, with the real libraries, tiny models and 4-bit",
            "weights; scheduling is tested with GPUs that a device plugin only claims to have. So this is what the libraries say:",
            "",
            "| GPU | 4-bit and 8-bit weights | bfloat16 |",
            "| --- | --- | --- |",
            "| Ampere, Ada, Hopper, Blackwell (compute capability 8.0 and newer) | yes | yes |",
            "| Turing (7.5) | yes | no: set `method.quantization.computeDtype: float16` |",
            "| older | not by the locked torch's CUDA | no |",
            "",
            "[The memory estimate](estimate.md) is held against the libraries' own tensors, without a GPU. AMD and Intel GPUs are not",
            "supported: the locked torch is the one for CUDA.",
            "",
            "## Architectures",
            "",
            "x86-64 is built and tested. For aarch64 the lock has every wheel (a test holds that), and the operator's image is built from",
            "[the Dockerfile](../guide/releasing.md#images) and its program run under QEMU by `make image-arm64`, which is no part of",
            "`make test`. The trainer's image has been built for x86-64 only.",
            "",
        ]
    )


def _read_module(root: Path, folder: str, module: str) -> str:
    text = (root / "devcluster" / "binaries" / folder / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} v(\S+)", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"error: devcluster/binaries/{folder}/go.mod does not require {module}")
    return found[1]


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with ``--check`` exit 1 where it is not as the locks say."""
    parser = argparse.ArgumentParser(prog="python -m release.support", description="Write docs/reference/support.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is not current")
    text = render_page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.stderr.write("error: docs/reference/support.md is not as the locks say; run: python -m release.support\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
