"""Proves a way of training on a family: the trainer's whole run in this process, on a tiny random model.

What is proved: the held-out loss falls; the base stays as it is to the last bit; what is published answers as what was trained, loaded by
PEFT and transformers alone; and what is merged answers as the adapter, but for bfloat16's rounding.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.families.catalog import DEFAULT, EXPERTS, FAMILIES, MIXTURES, WAYS

ROUNDING: Final = 0.05
"""Share of the adapter's own effect on the logits that a reader's or a publication's rounding may cost; twice that in mixtures of
experts, where a rounding can send a token to another expert."""
_TRAINING: Final[dict[str, Any]] = {
    "maxSteps": 10,
    "lrScheduler": "constant",
    "warmupRatio": 0,
    "perDeviceBatchSize": 4,
    "gradientAccumulationSteps": 1,
    "maxLength": 64,
    "optimizer": "adamw_torch",
    "evalSteps": 1000,
    "checkpoint": {"everySteps": 1000},
    "seed": 7,
}


@dataclass(frozen=True, slots=True)
class Proof:
    """What was seen of one way on one family. Without losses, it was refused or failed."""

    architecture: str
    tied: bool
    packed: bool = True
    """Whether packed examples are kept apart; where not, packing is refused, and this was trained without."""
    losses: tuple[float, float] | None = None
    """Held-out loss before the first step and after the last, in nats a token."""
    trained: int = 0
    targets: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    refused: str | None = None
    failed: str | None = None

    @property
    def holds(self) -> bool:
        """Whether it was refused with a reason, or all that is to be proved was."""
        return self.refused is not None or (self.losses is not None and not self.faults)


def list_pairs() -> list[tuple[str, str]]:
    """Return every family with every way that is for it."""
    return [(family, way) for family in FAMILIES for way in WAYS if way != EXPERTS or family in MIXTURES]


def make_model(family: str, workspace: Path) -> Path:
    """Write a tiny random model of ``family`` into ``workspace``, unless it is there."""
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    from tests.support.tiny_model import build_tokenizer  # noqa: PLC0415

    folder = workspace / family.replace(" ", "-").replace(",", "")
    if folder.exists():
        return folder
    kind, settings = FAMILIES[family]
    tokenizer = build_tokenizer()
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), **special, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prove(family: str, way: str, workspace: Path) -> Proof:
    """Train ``family`` in one ``way``; the data are in ``workspace``."""
    from transformers import AutoConfig  # noqa: PLC0415

    from finetune_trainer.ending import classify_exception  # noqa: PLC0415
    from finetune_trainer.errors import ConfigInvalid  # noqa: PLC0415
    from tests.support.adapter_checks import observe_run  # noqa: PLC0415

    model = make_model(family, workspace)
    config = AutoConfig.from_pretrained(model)
    known: dict[str, Any] = {"architecture": config.architectures[0], "tied": bool(config.tie_word_embeddings)}
    packed = True
    while True:
        try:
            seen = observe_run(build_config(family, way, model, workspace, packed=packed))
        except ConfigInvalid as error:
            if packed and error.message.startswith("training.packing"):
                packed = False
                continue
            return Proof(**known, packed=packed, refused=error.message)
        except Exception as error:
            logging.getLogger(__name__).exception("%s, %s", family, way)
            return Proof(**known, packed=packed, failed=classify_exception(error)[1])
        return Proof(
            **known,
            packed=packed,
            losses=tuple(seen["losses"]),
            trained=seen["trained"],
            targets=tuple(sorted({name.partition("/")[0] for name in seen["layers"]})),
            faults=tuple(
                list_faults(seen, 2 * ROUNDING if family in MIXTURES else ROUNDING, exact=way == DEFAULT and family not in MIXTURES)
            ),
        )


def list_faults(seen: dict[str, Any], rounding: float, *, exact: bool) -> list[str]:
    """Return what does not hold of a run that was observed.

    :param rounding: share of the adapter's effect that rounding may cost.
    :param exact: what is published must answer to the last bit as what was trained.
    """
    before, after = seen["losses"]
    allowed = rounding * seen["effect"]
    merged = seen["merged_difference"]
    found = {
        f"the loss did not fall: {before:.3f} to {after:.3f}": after >= before,
        f"{seen['base_changed']} weights of the base changed": seen["base_changed"] > 0,
        "nothing was learnt that shows": seen["effect"] < 1e-3,
        f"published, its logits differ by {seen['difference']:.2g} of {seen['effect']:.2g}": seen["difference"] > (0 if exact else allowed),
        f"merged, its logits differ by {merged or 0:.2g} of {seen['effect']:.2g}": merged is not None and merged > allowed,
    }
    return [words for words, holds in found.items() if holds]


def build_config(family: str, way: str, model: Path, workspace: Path, *, packed: bool) -> dict[str, Any]:
    """Return the trainer's configuration."""
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{family}-{way}").lower()
    changes = WAYS[way]
    return {
        "job": {"namespace": "families", "name": name.strip("-")[:63], "uid": f"uid-{name}"},
        "model": {"uri": f"file://{model}"},
        "dataset": {"uri": f"file://{workspace}/train.jsonl", "eval": {"uri": f"file://{workspace}/eval.jsonl"}},
        "method": changes["method"],
        "training": {**_TRAINING, **changes["training"], **({} if packed else {"packing": False})},
        "output": {"uri": f"file://{workspace}/out/{name}", **changes["output"]},
        "evaluation": {"samples": {"count": 0}},
        "device": {"gpus": 0},
        "workDir": str(workspace / "work" / name),
    }


def prove_each(pairs: Iterable[tuple[str, str]], workspace: Path, result: Path) -> None:
    """Prove ``pairs`` of family and way one after the other in this process; write the proofs to ``result``, in order."""
    result.write_text(json.dumps([asdict(prove(family, way, workspace)) for family, way in pairs]))


def prepare_and_prove(pairs: Iterable[tuple[str, str]], workspace: Path, result: Path) -> None:
    """Write the data into ``workspace``, and prove ``pairs``: for a process that has just been started."""
    from tests.support.trainer_workspace import make_workspace  # noqa: PLC0415

    make_workspace(workspace)
    prove_each(pairs, workspace, result)


def read_proofs(result: Path) -> list[Proof]:
    """Read what :func:`prove_each` wrote."""
    return [
        Proof(
            **{
                **proof,
                "losses": tuple(proof["losses"]) if proof["losses"] else None,
                "targets": tuple(proof["targets"]),
                "faults": tuple(proof["faults"]),
            }
        )
        for proof in json.loads(result.read_text())
    ]
