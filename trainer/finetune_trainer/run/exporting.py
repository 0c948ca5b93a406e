"""After the adapter: its other forms, and copies elsewhere. Every step finds what an earlier pod has done already."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from finetune_api.artifact import MANIFEST_NAME, Artifact, ArtifactManifest
from finetune_api.names import ENV_PREFIX_PUSH, number_prefix
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.artifacts import ManifestFields, download_verified, publish
from finetune_trainer.data.calibration import CalibrationRows
from finetune_trainer.errors import Interrupted
from finetune_trainer.exporting.gguf_support import check_gguf
from finetune_trainer.exporting.pushing import push_artifact
from finetune_trainer.interruption import Interruption
from finetune_trainer.run.publishing import CARD_FILE, EVALUATION_FILE, METRICS_FILE, REPORT_FILE
from finetune_trainer.run.resuming import find_finished
from finetune_trainer.storage import Credentials, Store
from finetune_trainer.storage.models import FetchedModel

logger = logging.getLogger(__name__)

_LICENSES: Final = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")
_PROBE: Final = (
    "The quick brown fox jumps over the lazy dog. In 1969 two people walked on the Moon. def add(a, b): return a + b. "
    "Question: what is the capital of France? Answer: Paris."
)
"""Text that parity is measured on, beside the run's samples."""
_FORMS: Final = {
    "merged": ("transformers", "finetune", "The whole model, the adapter merged into it, in bfloat16"),
    "gguf": ("gguf", "quantized", "The whole model as one GGUF file"),
    "gptq": ("transformers", "quantized", "The whole model, the adapter merged into it, its linear layers rounded to 4 bits by GPTQ"),
}
"""Of each form: what hubs call the library and the relation to the base, and words for the card."""
Published = tuple[Artifact, ArtifactManifest]


class Exporter:
    """Makes and publishes everything that ``output`` asks for beside the adapter.

    :param fetch_base: brings the base model to this machine; called only where something is made from it.
    :param fetch_rows: brings rows of the run's data to this machine; called only where a model is rounded by them.
    """

    def __init__(
        self,
        config: TrainerConfig,
        output: Store,
        environ: Mapping[str, str],
        folder: Path,
        fetch_base: Callable[[], FetchedModel],
        fetch_rows: Callable[[], CalibrationRows],
        interruption: Interruption,
    ) -> None:
        self._config = config
        self._output = output
        self._environ = environ
        self._folder = folder
        self._fetch_base = fetch_base
        self._fetch_rows = fetch_rows
        self._interruption = interruption

    def export(self, adapter: Published) -> list[Artifact]:
        """Return every artifact of the run, the adapter first. Killed at any moment, it may be called again.

        :raises ConfigInvalid: the model can't be merged or written so, or the merged model answers differently.
        :raises Interrupted: the run was asked to stop, and the next pod goes on with what is missing.
        :raises StorageFailed: a store, a registry or a hub failed.
        """
        spec = self._config.output
        published = {"adapter": adapter}
        for kind, wanted in (("merged", spec.merged), ("gguf", spec.gguf), ("gptq", spec.gptq)):
            if wanted:
                published[kind] = find_finished(self._output, self._config.job.uid, kind) or self._make(kind, adapter[1])
        artifacts = [artifact for artifact, _ in published.values()]
        for index, push in enumerate(spec.push):
            artifact, manifest = published[push.artifact]
            local = self._bring(push.artifact)
            credentials = Credentials.from_environ(number_prefix(ENV_PREFIX_PUSH, index), self._environ)
            artifacts.append(push_artifact(push, local, artifact, manifest, credentials))
        return artifacts

    def _make(self, kind: str, adapter: ArtifactManifest) -> Published:
        base = self._fetch_base()
        merged, measured = self._merge(base)
        folder = merged
        if kind == "gguf":
            folder = self._write_gguf(base, merged)
        elif kind == "gptq":
            folder, distance = self._write_gptq(merged)
            measured = measured | distance
        self._add_documents(folder, base, kind)
        fields = derive_fields(adapter, kind, measured)
        publish(folder, self._output, kind, fields)
        found = find_finished(self._output, self._config.job.uid, kind)
        assert found is not None, "verified just now"  # noqa: S101
        return found

    def _merge(self, base: FetchedModel) -> tuple[Path, dict[str, float]]:
        """Return the folder with the merged model, and how close it is to the adapter; made once in a pod."""
        from finetune_trainer.exporting.merging import merge_adapter  # noqa: PLC0415  heavy; loaded by now

        target, record = self._folder / "merged", self._folder / "merged.json"
        if record.is_file():
            return target, dict(json.loads(record.read_text(encoding="utf-8")))
        adapter = self._bring("adapter")
        parity = merge_adapter(base.path, adapter, target, [*_read_texts(adapter), _PROBE])
        measured = {"mergeDivergence": parity.divergence, "mergeAdapterEffect": parity.effect, "mergeAgreement": parity.agreement}
        record.write_text(json.dumps(measured), encoding="utf-8")
        return target, measured

    def _write_gguf(self, base: FetchedModel, merged: Path) -> Path:
        from finetune_trainer.exporting.gguf_file import write_gguf  # noqa: PLC0415

        spec = self._config.output.gguf
        assert spec is not None  # noqa: S101  asked by the caller
        kind = check_gguf(base.path, self._config.model.uri)
        folder = self._folder / "gguf"
        shutil.rmtree(folder, ignore_errors=True)
        name = self._config.job.name
        write_gguf(merged, folder / f"{name}-{spec.type}.gguf", name, kind, spec.type)
        return folder

    def _write_gptq(self, merged: Path) -> tuple[Path, dict[str, float]]:
        """Return the folder with the 4-bit model, and the perplexities of both."""
        from finetune_trainer.exporting.gptq_folder import write_gptq  # noqa: PLC0415

        def check() -> None:
            if self._interruption.asked:
                raise Interrupted("asked to stop while the model was rounded to 4 bits; the next pod does that again, and trains no step")

        spec = self._config.output.gptq
        assert spec is not None  # noqa: S101  asked by the caller
        folder = self._folder / "gptq"
        distance = write_gptq(merged, folder, self._fetch_rows(), spec.group_size, check)
        return folder, {"mergedPerplexity": distance.merged, "gptqPerplexity": distance.quantized}

    def _bring(self, kind: str) -> Path:
        """Return the folder with a published artifact, every digest of it verified, and its manifest."""
        folder = self._folder / "published" / kind
        download_verified(self._output, kind, folder)
        content = self._output.read(f"{kind}/{MANIFEST_NAME}", 4 * 2**20)
        (folder / MANIFEST_NAME).write_bytes(content or b"")
        return folder

    def _add_documents(self, folder: Path, base: FetchedModel, kind: str) -> None:
        adapter = self._bring("adapter")
        for name in (METRICS_FILE, EVALUATION_FILE, REPORT_FILE):
            shutil.copyfile(adapter / name, folder / name)
        card = (adapter / CARD_FILE).read_text(encoding="utf-8")
        (folder / CARD_FILE).write_text(_rewrite_card(card, kind), encoding="utf-8")
        for name in _LICENSES:
            if (base.path / name).is_file():
                shutil.copyfile(base.path / name, folder / name)


def derive_fields(adapter: ArtifactManifest, kind: Any, measured: Mapping[str, float]) -> ManifestFields:  # noqa: ANN401
    """Return what the manifest of something made from ``adapter`` says besides its files."""
    return replace(
        ManifestFields(
            kind="adapter",
            job_uid=adapter.job_uid,
            job_namespace=adapter.job_namespace,
            job_name=adapter.job_name,
            attempt=adapter.attempt,
            step=adapter.step,
            total_steps=adapter.total_steps,
            base_model_uri=adapter.base_model_uri,
            base_model_revision=adapter.base_model_revision,
            base_model_digest=adapter.base_model_digest,
            dataset_digest=adapter.dataset_digest,
            versions=adapter.versions,
            metrics={**adapter.metrics, **measured},
            tasks=adapter.tasks,
            harness=adapter.harness,
            config=adapter.config,
        ),
        kind=kind,
    )


def _rewrite_card(card: str, kind: str) -> str:
    """Return the adapter's card as that of another form."""
    library, relation, form = _FORMS[kind]
    card = card.replace("library_name: peft\n", f"library_name: {library}\n", 1)
    card = card.replace("base_model_relation: adapter\n", f"base_model_relation: {relation}\n", 1)
    head, mark, rest = card.partition("\n# ")
    title, _, body = rest.partition("\n")
    return f"{head}{mark}{title}\n\n{form}. It was made from:{body}" if mark else card


def _read_texts(adapter: Path) -> list[str]:
    evaluation = json.loads((adapter / EVALUATION_FILE).read_text(encoding="utf-8"))
    return [sample["prompt"] + (sample.get("after") or sample.get("expected") or "") for sample in evaluation.get("samples", [])][:8]
