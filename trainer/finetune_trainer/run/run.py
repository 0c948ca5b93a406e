"""One run from its configuration to its published adapter."""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_api.artifact import Artifact, ArtifactManifest
from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.names import ENV_PREFIX_MODEL, ENV_PREFIX_OUTPUT, ENV_PREFIX_TEACHER
from finetune_api.progress import DatasetCounts, Metrics
from finetune_api.report import Stage
from finetune_api.spec import ModelSpec
from finetune_api.spec.objective import LIKELIHOOD_OBJECTIVES, PACKING_OBJECTIVES
from finetune_api.summary import TrainerSummary
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.artifacts import CheckpointStore, FetchedCheckpoint, ManifestFields, publish
from finetune_trainer.configuration import read_packed_attention
from finetune_trainer.data import Examples, PreparedData, load_examples, prepare_data
from finetune_trainer.data.calibration import CalibrationRows, choose_calibration
from finetune_trainer.data.kept import compute_key
from finetune_trainer.data.prepare import settle_tokenizer
from finetune_trainer.device import Device, check_device, choose_device
from finetune_trainer.documents import RunFacts
from finetune_trainer.ending import is_out_of_memory
from finetune_trainer.errors import Interrupted, OutOfMemory, StorageFailed
from finetune_trainer.evaluation import Evaluation, Judge, load_tasks
from finetune_trainer.evaluation.harness import check_harness, load_harness
from finetune_trainer.evaluation.judge import When
from finetune_trainer.exporting.gguf_support import check_gguf
from finetune_trainer.group import Group, choose_backend
from finetune_trainer.interruption import Interruption
from finetune_trainer.logs import quieten_libraries
from finetune_trainer.reporting import Reporter
from finetune_trainer.run.estimating import estimate_memory
from finetune_trainer.run.exporting import Exporter
from finetune_trainer.run.judging import build_judge
from finetune_trainer.run.preload import Preload
from finetune_trainer.run.progress import RunProgress
from finetune_trainer.run.resuming import ADAPTER_FOLDER, MODEL_FOLDER, check_same_inputs, find_finished, warn_of_other_versions
from finetune_trainer.run.rewards import check_rewards
from finetune_trainer.run.session import Surroundings, TrainingSession
from finetune_trainer.run.tokens import PREPARED_FOLDER, TokenKeeper
from finetune_trainer.run.tracking import RunTracking
from finetune_trainer.run.versions import collect_versions
from finetune_trainer.storage import Credentials, Store, open_store
from finetune_trainer.storage.cached import fetch_by_cache
from finetune_trainer.storage.models import FetchedModel
from finetune_trainer.tracing import Tracing
from finetune_trainer.tracking import Outcome

logger = logging.getLogger(__name__)


class Run:
    """One run. Holds all of its state, so that several could go on in one process.

    :param environ: where credentials are read from.
    """

    def __init__(
        self,
        config: TrainerConfig,
        interruption: Interruption,
        environ: Mapping[str, str],
        group: Group | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.config = config
        self._span = (tracing or Tracing()).span
        likelihood = config.method.objective in LIKELIHOOD_OBJECTIVES
        self.progress = RunProgress(config.job, likelihood=likelihood, samples_shown=config.evaluation.samples.in_status)
        self._interruption = interruption
        self._environ = environ
        self._folder = Path(config.work_dir, config.job.uid)
        self._group = group or Group(config.group, environ)
        self._own_folder = self._folder / f"process-{self._group.local_rank}" if self._group.local_rank else self._folder
        self._versions = collect_versions()
        self._base: FetchedModel | None = None
        self._judge: Judge | None = None
        self._tracking: RunTracking | None = None
        self._dataset_digest: str | None = None
        self._calibration: CalibrationRows | None = None
        self._tokens: TokenKeeper | None = None
        self._begun = time.monotonic()
        self._result_kind = MODEL_FOLDER if config.method.adapter.type == "none" else ADAPTER_FOLDER

    def execute(self) -> TrainerSummary:
        """Train and publish, or find that it is done already. Every failure is an exception: see :mod:`finetune_trainer.ending`."""
        try:
            with Reporter(self.config.reporting if self._group.leads else None, self.progress.build_report) as reporter:
                summary = self._execute(reporter)
                if self._group.leads:
                    self._group.tell_done()
                self._close_trackers("completed", summary.artifacts)
                return summary
        except BaseException as error:
            self._close_trackers("interrupted" if isinstance(error, Interrupted) else "failed")
            if is_out_of_memory(error):
                raise OutOfMemory(self._describe_memory(error)) from error
            raise

    def _enter(self, stage: Stage, reporter: Reporter) -> None:
        self.progress.enter(stage)
        reporter.notify()

    def _close_trackers(self, outcome: Outcome, artifacts: Sequence[Artifact] = ()) -> None:
        if self._tracking is not None:
            self._tracking.close(outcome, artifacts)

    def _execute(self, reporter: Reporter) -> TrainerSummary:  # noqa: PLR0915  the run from top to bottom
        config = self.config
        device = choose_device(config.device, self._group.local_rank)
        check_device(device, config.method.quantization.type)
        read_packed_attention(self._environ)  # a word that is not known is found at once
        if config.training.compile:
            from finetune_trainer.model.compiling import check_compiler  # noqa: PLC0415  seconds to import, for few runs

            check_compiler(device)
        self.progress.device = device.name
        reporter.notify()
        check_harness(config.evaluation.harness)
        output = open_store(config.output.uri, "output", self._credentials(ENV_PREFIX_OUTPUT), config.output.endpoint_url)
        checkpoints = CheckpointStore(output, config.job.uid)
        if self._group.leads:
            self._tracking = RunTracking(config, output, self._folder / "tracking", self._environ)
        if (finished := find_finished(output, config.job.uid, self._result_kind)) is not None:
            artifact, manifest = finished
            logger.info("this run has published its %s already: %s", self._result_kind, artifact.uri)
            if not self._group.leads:
                return self._summarise_part()
            self._delete_checkpoints(checkpoints)
            self.progress.total_steps = manifest.total_steps
            self.progress.restore(manifest.step, config.training.epochs, 0, [], {})
            return self._summarise_completion(
                self._export(output, finished),
                Metrics.model_validate({**manifest.metrics, "tasks": manifest.tasks, "harness": manifest.harness}),
            )

        if not self._group.meet(choose_backend(device.kind, offloads=config.offloads_parts), lambda: self._is_finished(output)):
            return self._summarise_part()
        if self._group.meets:
            self._interruption.agree_by(self._group.any)

        # Data and model
        unused = () if any(tracker.type == "wandb" for tracker in config.tracking) else ("wandb",)
        with (
            self._span("load", what="files"),
            Preload(config.method.objective, unused),
        ):  # the libraries take seconds to import: meanwhile, files come in
            self._group.wait_for_files()
            self._base = base = self._fetch_model(config.model, ENV_PREFIX_MODEL, "model")
            examples = self._load_examples()
            check_rewards(config.method.grpo.rewards if config.method.grpo else [], examples.answers)
            teacher_files = self._fetch_teacher()
            tasks = load_tasks(config.evaluation.tasks, self._folder / "tasks", self._environ)
            asked = config.evaluation.harness if self._group.leads else []
            harness = load_harness(asked, self._folder / "harness", self._environ)
            checkpoint = checkpoints.download_newest(self._folder / "resume")
        self._group.tell_files()
        self._log_time("files fetched and libraries loaded")

        from finetune_trainer.model.loading import check_architecture, check_length, load_tokenizer  # noqa: PLC0415  heavy; loaded by now
        from finetune_trainer.model.quantized_base import check_quantized_base  # noqa: PLC0415

        quieten_libraries()
        reward = config.method.objective == "reward"
        architecture = check_architecture(base.path, config.model.uri, scores=reward)
        check_quantized_base(architecture, config.method, config.output, config.model.uri, divided=config.divides_model)
        self.progress.memory_estimate = estimate_memory(config, device, base.path, teacher_files.path if teacher_files else None)
        if config.output.gguf is not None:
            check_gguf(base.path, config.model.uri)
        if config.output.gptq is not None:
            from finetune_trainer.exporting.gptq_folder import check_gptq  # noqa: PLC0415

            check_gptq(architecture, config.output.gptq.group_size, config.model.uri)
        self._enter("preparing", reporter)
        self._tokens = TokenKeeper(self._folder, self._group, checkpoints if config.dataset.keep_tokenised else None)
        with self._span("preflight"):
            tokenizer = load_tokenizer(base.path, config.model.uri)
            data = self._prepare_data(examples, tokenizer)
        self._judge = None if reward else build_judge(config, examples, tokenizer, tasks, self._interruption, harness)
        del examples  # their disk is free again
        self._dataset_digest = data.digest
        self.progress.dataset = data.counts
        check_length(architecture, data.longest, config.method.adapter.resolved_virtual_tokens, config.model.uri)
        if checkpoint is not None:
            check_same_inputs(checkpoint.manifest, base.digest, data.digest)
            warn_of_other_versions(checkpoint.manifest, self._versions)
        reporter.notify()
        self._log_time("data prepared")

        with self._span("load", what="model"):
            adapted, teacher = self._load_models(base, teacher_files, tokenizer, device, data)
        self._log_time("model loaded")

        # Train and publish
        trainer = self._train(adapted, tokenizer, data, device, checkpoints, checkpoint, reporter, teacher)
        if not self._group.leads:
            if not self._group.wait_for_leader(lambda: self._is_finished(output), lambda: self._interruption.asked):
                raise Interrupted("asked to stop after the last step; the first process publishes")
            return self._summarise_part()
        self._group.part()
        self._enter("publishing", reporter)
        with self._span("upload", what=self._result_kind):
            self._publish(trainer, tokenizer, data.counts)
        self._tokens.wait()
        self._delete_checkpoints(checkpoints)
        published = find_finished(output, config.job.uid, self._result_kind)
        if published is None:
            raise StorageFailed(
                f"{output.locate(self._result_kind)} has changed since it was published; is another run writing to output.uri?"
            )
        del trainer, adapted, teacher  # its memory is the merged model's now
        return self._summarise_completion(self._export(output, published), None)

    def _is_finished(self, output: Store) -> bool:
        return find_finished(output, self.config.job.uid, self._result_kind) is not None

    def _export(self, output: Store, adapter: tuple[Artifact, ArtifactManifest]) -> list[Artifact]:
        """Publish the other forms of the adapter, and push copies."""
        spec = self.config.output
        if not spec.has_several:
            return [adapter[0]]
        self.progress.enter("publishing")
        folder = self._folder / "export"
        exporter = Exporter(self.config, output, self._environ, folder, self._fetch_base, self._fetch_calibration, self._interruption)
        with self._span("upload", what="other forms and copies"):
            return exporter.export(adapter)

    def _load_examples(self) -> Examples:
        config = self.config
        return load_examples(config.dataset, config.training.seed, self._folder / "data", self._environ, config.method.objective)

    def _prepare_data(self, examples: Examples, tokenizer: Any) -> PreparedData:  # noqa: ANN401
        config = self.config

        def prepare(folder: Path) -> PreparedData:
            return prepare_data(examples, tokenizer, config.training, config.method, config.dataset.too_long, folder=folder)

        if self._tokens is None:
            data = prepare(self._own_folder / PREPARED_FOLDER)
        else:
            data = self._tokens.obtain(
                self._compute_key(examples),
                prepare,
                lambda: settle_tokenizer(examples, tokenizer, config.training, config.method),
                lambda: self._fields("tokens", 0),
            )
        if config.output.gptq is not None and self._group.leads:
            self._calibration = choose_calibration(data, tokenizer, config.training.seed)
        return data

    def _compute_key(self, examples: Examples) -> str | None:
        """Return what the tokenised data hang on; None where nobody would use them again."""
        config = self.config
        used = config.dataset.keep_tokenised or self._group.shares
        if not used or config.method.objective == "grpo" or examples.read_digest is None:
            return None
        return compute_key(examples.read_digest, self._fetch_base().path, config.dataset, config.training, config.method, self._versions)

    def _fetch_calibration(self) -> CalibrationRows:
        """Return the rows that were chosen as the data were prepared; in a pod that found the adapter published, prepare them again."""
        from finetune_trainer.model.loading import load_tokenizer  # noqa: PLC0415

        if self._calibration is None:
            self._prepare_data(self._load_examples(), load_tokenizer(self._fetch_base().path, self.config.model.uri))
        assert self._calibration is not None  # noqa: S101  chosen as the data were prepared
        return self._calibration

    def _fetch_base(self) -> FetchedModel:
        if self._base is None:
            self._base = self._fetch_model(self.config.model, ENV_PREFIX_MODEL, "model")
        return self._base

    def _fetch_model(self, model: ModelSpec, prefix: str, folder: str) -> FetchedModel:
        config = self.config
        return fetch_by_cache(model, self._credentials(prefix), self._folder / folder, config.model_cache, config.work_dir)

    def _fetch_teacher(self) -> FetchedModel | None:
        distill = self.config.method.distill
        if distill is None:
            return None
        return self._fetch_model(distill.teacher, ENV_PREFIX_TEACHER, "teacher")

    def _load_models(
        self,
        base: FetchedModel,
        teacher_files: FetchedModel | None,
        tokenizer: Any,  # noqa: ANN401
        device: Device,
        data: PreparedData,
    ) -> tuple[Any, Any]:
        """Return the model with its adapter, and the teacher where there is one."""
        from finetune_trainer.model.adapter import add_adapter  # noqa: PLC0415  heavy; loaded by now
        from finetune_trainer.model.kernels import choose_kernels  # noqa: PLC0415
        from finetune_trainer.model.loading import load_model, load_teacher  # noqa: PLC0415
        from finetune_trainer.model.packing import check_packing  # noqa: PLC0415
        from finetune_trainer.model.sharding import build_mesh, divide_model, share_whole  # noqa: PLC0415
        from finetune_trainer.model.varlen_choice import mix_precision, settle_attention  # noqa: PLC0415

        config, method, seed = self.config, self.config.method, self.config.training.seed
        reward, divides = method.objective == "reward", self.config.divides_model
        packs, dtype = config.training.packing and method.objective in PACKING_OBJECTIVES, method.quantization.compute_dtype
        attention = read_packed_attention(self._environ)
        choose_kernels(device)
        mesh = build_mesh(device) if divides else None
        # One that is not quantised lies in the node's memory until it is divided
        with self._group.in_turn() if divides and method.quantization.type == "none" else contextlib.nullcontext():
            model = load_model(
                base.path,
                config.model.uri,
                method.quantization,
                device,
                trains_all=method.adapter.type == "none",
                score_seed=seed if reward else None,
                divided=divides,
            )
            base_parameters = list(model.parameters())
            if packs:
                by_lengths = settle_attention(model, config.model.uri, device, dtype, attention, compiles=config.training.compile)
                with mix_precision(model, dtype) if by_lengths else contextlib.nullcontext():
                    check_packing(model, config.model.uri)
            adapted = add_adapter(model, method.adapter, seed, base.path, data.train, scores=reward)
            if mesh is not None:
                divide_model(
                    adapted.model,
                    base_parameters,
                    device,
                    mesh,
                    dtype,
                    keeps_gathered=config.training.sharding == "gradients",
                    offloads=config.offloads_parts,
                )
        if mesh is not None:
            share_whole(adapted.model)
        if config.training.compile:
            from finetune_trainer.model.compiling import compile_layers  # noqa: PLC0415  loaded by now

            compile_layers(adapted.model)
        if teacher_files is None or method.distill is None:
            return adapted, None
        uri = method.distill.teacher.uri
        teacher = load_teacher(teacher_files.path, uri, method.quantization, device, tokenizer, model)
        if packs:
            settle_attention(teacher, uri, device, dtype, attention)
        return adapted, teacher

    def _train(
        self,
        adapted: Any,  # noqa: ANN401  an AdaptedModel, whose module loads torch
        tokenizer: Any,  # noqa: ANN401
        data: PreparedData,
        device: Device,
        checkpoints: CheckpointStore,
        checkpoint: FetchedCheckpoint | None,
        reporter: Reporter,
        teacher: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Train to the end, or until the run is asked to stop.

        :raises Interrupted: it was asked to stop; a checkpoint of the last step is published.
        """
        around = Surroundings(
            self.config,
            self.progress,
            self._interruption,
            checkpoints,
            self._own_folder,
            reporter.notify,
            lambda step: self._fields("checkpoint", step),
            self._note_checkpoint,
            self._track,
            self._group,
            self._span,
        )
        session = TrainingSession(around, adapted, tokenizer, data, device, teacher)

        def before() -> None:
            self.progress.enter("evaluating")
            with adapted.as_base():
                self._ask(adapted.model, "before")
            self._log_time("ready to train")

        with self._span("train", from_step=0 if checkpoint is None else checkpoint.step):
            trainer = session.train(checkpoint, before)
        session.restore_best(trainer)
        self._enter("evaluating", reporter)
        self._ask(trainer.model, "after")
        adapted.gather(writes=self._group.leads)
        return trainer

    def _track(self, step: int, values: Mapping[str, float]) -> None:
        if self._tracking is not None:
            self._tracking.log(step, values)

    def _ask(self, model: Any, when: When) -> None:  # noqa: ANN401
        """Put samples and tasks to the model. One that is divided answers only if all processes ask it the same."""
        if self._judge is not None and (self._group.leads or self.config.divides_model):
            with self._span("evaluate", when=when):
                self.progress.evaluation = self._judge.judge(model, when, self.progress.evaluation)
            found = {f"task_{task.name}": score for task in self.progress.measure()[1].tasks if (score := task.score) is not None}
            found |= {f"harness_{task.name}": score for task in self.progress.measure()[1].harness if (score := task.score) is not None}
            self._track(self.progress.step, found)

    def _publish(self, trainer: Any, tokenizer: Any, dataset: DatasetCounts) -> Artifact:  # noqa: ANN401
        from finetune_trainer.run.publishing import write_adapter_folder  # noqa: PLC0415  heavy; loaded by now

        folder = self._folder / self._result_kind
        write_adapter_folder(folder, trainer.adapted, tokenizer, self._gather_facts(trainer.state.log_history, dataset))
        output = open_store(self.config.output.uri, "output", self._credentials(ENV_PREFIX_OUTPUT), self.config.output.endpoint_url)
        return publish(folder, output, self._result_kind, self._fields(self._result_kind, self.progress.step))

    def _gather_facts(self, history: list[dict[str, Any]], dataset: DatasetCounts) -> RunFacts:
        base = self._base
        return RunFacts(
            config=self.config,
            metrics=self.progress.measure()[1],
            dataset=dataset,
            history=history,
            evaluation=self.progress.evaluation or Evaluation(),
            versions=self._versions,
            device=self.progress.device or "",
            now=datetime.now(UTC),
            base_revision=None if base is None else base.revision,
            base_license=None if base is None else base.license,
            steps=self.progress.step,
            sources={"Base model's digest": None if base is None else base.digest, "Data's digest": self._dataset_digest},
        )

    def _delete_checkpoints(self, checkpoints: CheckpointStore) -> None:
        try:
            checkpoints.delete_all()
        except StorageFailed as error:  # the adapter is published: what is left costs room, not truth
            logger.warning("the checkpoints were not all deleted: %s", error)

    def _fields(self, kind: Any, step: int) -> ManifestFields:  # noqa: ANN401
        job, base = self.config.job, self._base
        measured = self.progress.measure()[1]
        metrics = measured.model_dump(mode="json", exclude_none=True, exclude={"history", "curves", "samples", "tasks", "harness"})
        return ManifestFields(
            kind=kind,
            job_uid=job.uid,
            job_namespace=job.namespace,
            job_name=job.name,
            attempt=self.config.attempt,
            step=step,
            total_steps=self.progress.total_steps,
            base_model_uri=self.config.model.uri,
            base_model_revision=None if base is None else base.revision,
            base_model_digest=None if base is None else base.digest,
            dataset_digest=self._dataset_digest,
            versions=self._versions,
            metrics=metrics,
            tasks=measured.tasks,
            harness=measured.harness,
            config=self.config.model_dump(mode="json", exclude_none=True, exclude={"reporting"}),
        )

    def _note_checkpoint(self, step: int) -> None:
        self.progress.checkpoint_step = max(step, self.progress.checkpoint_step or 0)

    def _credentials(self, prefix: str) -> Credentials:
        return Credentials.from_environ(prefix, self._environ)

    def _log_time(self, what: str) -> None:
        logger.info("%s after %.1f s", what, time.monotonic() - self._begun)

    def _summarise_completion(self, artifacts: list[Artifact], metrics: Metrics | None) -> TrainerSummary:
        progress, measured = self.progress.measure()
        return TrainerSummary(
            outcome="completed",
            reason=OUTCOMES[ExitCode.COMPLETED].reason,
            message=f"trained {self.progress.step} steps; {_name_artifacts(artifacts)} published and verified",
            progress=progress,
            metrics=metrics or measured,
            dataset=self.progress.dataset,
            artifacts=artifacts,
            device=self.progress.device,
        )

    def _summarise_part(self) -> TrainerSummary:
        """Build the last word of a process that did its part: what came out is told by the first one."""
        words = f"process {self._group.rank} of {self._group.size} did its part; the first one tells the result"
        return TrainerSummary(outcome="completed", reason=OUTCOMES[ExitCode.COMPLETED].reason, message=words, device=self.progress.device)

    def summarise_end(self, code: ExitCode, message: str) -> TrainerSummary:
        """Build the summary of a run that ends by ``code`` before it is done, with all that is known by now."""
        progress, metrics = self.progress.measure()
        return TrainerSummary(
            outcome="interrupted" if OUTCOMES[code].retry == "free" else "failed",
            reason=OUTCOMES[code].reason,
            message=message[:4000],
            progress=progress,
            metrics=metrics,
            dataset=self.progress.dataset,
            checkpoint_step=self.progress.checkpoint_step,
            device=self.progress.device,
        )

    def _describe_memory(self, error: BaseException) -> str:
        training = self.config.training
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        peak = self.progress.measure()[1].gpu_memory_peak_bytes
        held = f", peak {peak / 2**30:.1f} GiB" if peak else ""
        return (
            f"out of memory at step {self.progress.step + 1} with perDeviceBatchSize {training.per_device_batch_size} and maxLength "
            f"{training.max_length}{held} ({words})"
        )


def _name_artifacts(artifacts: list[Artifact]) -> str:
    names = list(dict.fromkeys(artifact.name for artifact in artifacts))
    return f"the {names[0]} is" if len(names) == 1 else f"{', '.join(names)} are"
