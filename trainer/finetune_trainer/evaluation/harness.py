"""Tasks of lm-evaluation-harness, asked of the model in this process. Nothing but the installed package's own code is run.

The package is an extra of the trainer, and takes seconds to import: it is loaded for runs that ask for it.
"""

import copy
import importlib.util
import logging
import math
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from finetune_api.names import ENV_PREFIX_HARNESS, number_prefix
from finetune_api.spec import EvalDatasetSpec
from finetune_api.spec.evaluation import HarnessTaskSpec
from finetune_api.spec.method import ComputeDtype
from finetune_trainer.data.fetch import fetch_dataset
from finetune_trainer.data.reading import load_rows
from finetune_trainer.errors import ConfigInvalid, DataInvalid, SourceUnavailable, TrainerError
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.opening import open_store

logger = logging.getLogger(__name__)

_BATCH: Final = 8
_YAML_MAX_BYTES: Final = 256 * 1024
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*")
_KEYS: Final = {
    *("task", "task_alias", "tag", "metadata", "dataset_path", "dataset_name", "training_split", "validation_split", "test_split"),
    *("fewshot_split", "doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter", "fewshot_delimiter"),
    *("num_fewshot", "metric_list", "output_type", "generation_kwargs", "repeats", "filter_list", "gen_prefix"),
}
"""What the YAML of a task may say. All else either runs code or reads files."""
_METRIC_KEYS: Final = {
    *("metric", "aggregation", "higher_is_better", "ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore"),
}
_OUTPUTS: Final = ("multiple_choice", "generate_until", "loglikelihood", "loglikelihood_rolling")
_SPLIT: Final = "test"
"""Name that the questions of `datasetUri` have in a task."""


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """A task, built and its data loaded."""

    name: str
    metric: str
    """The first of its metrics."""
    task: Any
    """The harness's own object."""
    max_examples: int


@dataclass(frozen=True, slots=True)
class HarnessFigure:
    """What a task measured."""

    value: float
    examples: int


def check_harness(specs: Sequence[HarnessTaskSpec]) -> None:
    """Refuse a run that asks for the harness where it is not installed.

    :raises ConfigInvalid: it is not.
    """
    if specs and importlib.util.find_spec("lm_eval") is None:
        raise ConfigInvalid(
            "evaluation.harness: this trainer has no lm-evaluation-harness; use an image built with --build-arg TRAINER_EXTRAS=harness "
            "(locally: pip install 'finetune-operator[trainer,harness]'), or remove evaluation.harness"
        )


def load_harness(specs: Sequence[HarnessTaskSpec], folder: Path, environ: Mapping[str, str]) -> list[HarnessTask]:
    """Build the tasks of ``specs``; what they ask is downloaded.

    :raises ConfigInvalid: there is no such task, or its YAML says what is not run here.
    :raises DataInvalid: its data can't be read, or don't fit it.
    :raises SourceUnavailable: a URI doesn't exist, or the hub can't be reached.
    """
    if not specs:
        return []
    _prepare_library()
    built = []
    for index, spec in enumerate(specs):
        credentials = Credentials.from_environ(number_prefix(ENV_PREFIX_HARNESS, index), environ)
        where = f"evaluation.harness[{index}] ({spec.name})"
        try:
            config = _find_builtin(spec) if spec.uri is None else _read_own(spec, folder / str(index), credentials)
            built.append(_build(spec, config, credentials))
        except TrainerError as error:
            raise type(error)(f"{where}: {error.message}") from None
        logger.info("task %s of the harness is ready: %s", spec.name, built[-1].metric)
    return built


def _prepare_library() -> None:
    """Load the library so that it neither fetches metrics from a hub nor evaluates templates outside a sandbox."""
    os.environ["HF_EVALUATE_OFFLINE"] = "1"  # `evaluate` runs what it downloads
    from jinja2 import StrictUndefined  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415
    from lm_eval import utils as library  # noqa: PLC0415

    if not isinstance(library.env, ImmutableSandboxedEnvironment):
        sandbox = ImmutableSandboxedEnvironment(loader=library.env.loader, undefined=StrictUndefined, keep_trailing_newline=True)
        sandbox.filters.update(library.env.filters)
        library.env = sandbox


def _find_builtin(spec: HarnessTaskSpec) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager  # noqa: PLC0415  seconds to import

    manager = TaskManager()
    if spec.name not in manager.all_subtasks:
        kind = "is a group of tasks; name those of them that you want" if spec.name in manager.all_tasks else "is no task of the harness"
        raise ConfigInvalid(f"{spec.name} {kind}; see lm_eval --tasks list, or give uri for a task of your own")
    return {"task": spec.name}


def _read_own(spec: HarnessTaskSpec, folder: Path, credentials: Credentials) -> dict[str, Any]:
    """Return the configuration of a task of the user's own, with its data in place."""
    assert spec.uri is not None  # noqa: S101  asked by the caller
    content = open_store(spec.uri, "evaluation dataset", credentials, spec.endpoint_url).read("", _YAML_MAX_BYTES)
    if content is None:
        raise SourceUnavailable(f"{spec.uri} doesn't exist; check uri for typing errors")
    config = parse_own_task(content, has_data=spec.dataset_uri is not None)
    config["task"] = spec.name
    if spec.dataset_uri is not None:
        from datasets import Dataset  # noqa: PLC0415  heavy; loaded by now

        source = EvalDatasetSpec(uri=spec.dataset_uri, endpoint_url=spec.endpoint_url)
        fetched = fetch_dataset(source, credentials, folder)
        rows = Dataset.from_list([dict(row.value) for row in load_rows(fetched.files, fetched.root)])
        config |= {"custom_dataset": lambda **_: {_SPLIT: rows}, "test_split": _SPLIT, "fewshot_split": _SPLIT}
    return config


def parse_own_task(content: bytes, *, has_data: bool) -> dict[str, Any]:
    """Return what the YAML of a task says, all of it harmless.

    :raises ConfigInvalid: it is no YAML of a task, or asks for what is not run here; names each such key.
    """
    from lm_eval import filters  # noqa: F401, PLC0415  fills the registry
    from lm_eval.api import metrics, registry  # noqa: F401, PLC0415  likewise

    try:
        config = yaml.safe_load(content)
    except yaml.YAMLError as error:
        words = " ".join(str(error).split())
        raise ConfigInvalid(f"the task's YAML can't be read (tags such as !function run code, and are refused): {words[:300]}") from None
    if not isinstance(config, dict):
        raise ConfigInvalid("the task's YAML must be a mapping, in the harness's format")
    faults = [f"{key} is not taken here" for key in sorted(map(str, set(config) - _KEYS))]
    faults += _check_values(config)
    if config.get("output_type") not in _OUTPUTS:
        faults.append(f"output_type must be one of {', '.join(_OUTPUTS)}")
    measured = config.get("metric_list")
    if not isinstance(measured, list) or not measured:
        faults.append("metric_list must name a metric")
        measured = []
    for entry in measured:
        if not isinstance(entry, dict) or set(entry) - _METRIC_KEYS or entry.get("metric") not in registry.metric_registry:
            faults.append(f"metric_list: {entry!r} is no metric of the harness itself (with {', '.join(sorted(_METRIC_KEYS))})")
    for step in _list_filters(config.get("filter_list")):
        if step == "custom" or step not in registry.filter_registry:
            faults.append(f"filter_list: {step!r} is no filter of the harness")
    if has_data:
        if "dataset_path" in config or "dataset_name" in config:
            faults.append("dataset_path and datasetUri exclude each other")
    elif not isinstance(config.get("dataset_path"), str) or not _HUB_NAME.fullmatch(config["dataset_path"]):
        faults.append("dataset_path must name a hub dataset (organisation/name); give datasetUri for files elsewhere")
    if faults:
        raise ConfigInvalid("the task's YAML: " + "; ".join(faults[:20]))
    return config


def _check_values(config: Mapping[str, Any]) -> list[str]:
    texts = {"doc_to_text": (str, int), "doc_to_target": (str, int), "doc_to_choice": (str, list), "description": (str,)}
    return [f"{key} has the wrong type" for key, kinds in texts.items() if key in config and not isinstance(config[key], kinds)]


def _list_filters(value: Any) -> list[Any]:  # noqa: ANN401  from the user's YAML
    if value is None:
        return []
    try:
        return [step["function"] for pipeline in value for step in pipeline["filter"]]
    except (TypeError, KeyError):
        return [value]


def _build(spec: HarnessTaskSpec, config: dict[str, Any], credentials: Credentials) -> HarnessTask:
    from lm_eval.api.task import ConfigurableTask  # noqa: PLC0415
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    changes: dict[str, Any] = {} if spec.num_fewshot is None else {"num_fewshot": spec.num_fewshot}
    before = os.environ.get("HF_TOKEN")
    if credentials.hub_token:
        os.environ["HF_TOKEN"] = credentials.hub_token
    try:
        if spec.uri is None:
            [task] = TaskManager().load([{**config, **changes}])["tasks"].values()
        else:
            task = ConfigurableTask(config={**config, **changes})
    except (OSError, ConnectionError) as error:
        raise SourceUnavailable(f"its data can't be fetched: {_first_line(error)}") from error
    except Exception as error:  # of a library that raises whatever its parts do
        raise DataInvalid(f"the harness can't build it: {type(error).__name__}: {_first_line(error)}") from error
    finally:
        if credentials.hub_token:
            os.environ.pop("HF_TOKEN")
            os.environ |= {} if before is None else {"HF_TOKEN": before}
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigInvalid("it runs the code that the model writes; remove it")
    names = list(task.aggregation())
    if not names:
        raise DataInvalid("it has no metric")
    return HarnessTask(spec.name, str(names[0])[:64], task, spec.max_examples)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def measure_task(
    task: HarnessTask,
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    *,
    seed: int,
    compute_dtype: ComputeDtype,
    stop_requested: Callable[[], bool],
) -> HarnessFigure | None:
    """Ask ``model`` the questions of ``task``; None where the metric is not a finite number. Modes and random numbers of training are as
    before afterwards.

    :raises GenerationStopped: ``stop_requested`` became true.
    :raises DataInvalid: the task's templates don't fit its data.
    """
    from lm_eval.evaluator import evaluate  # noqa: PLC0415

    from finetune_trainer.evaluation.generating import answering  # noqa: PLC0415
    from finetune_trainer.evaluation.harness_model import build_harness_model  # noqa: PLC0415

    kept = random.getstate()
    with answering(model, compute_dtype, seed):
        try:
            task.task.set_fewshot_seed(seed)
            asked = build_harness_model(model, copy.deepcopy(tokenizer), _BATCH, stop_requested)
            tasks = {"tasks": {task.name: task.task}, "groups": {}, "group_map": {}}
            found = evaluate(asked, tasks, limit=task.max_examples, bootstrap_iters=0, log_samples=False)
        except (KeyError, TypeError, ValueError) as error:
            raise DataInvalid(f"evaluation.harness ({task.name}): {type(error).__name__}: {_first_line(error)}") from error
        finally:
            random.setstate(kept)
    results: dict[str, Any] = found["results"][task.name]
    values = [value for key, value in results.items() if key.partition(",")[0] == task.metric]
    value = float(values[0]) if values and isinstance(values[0], (int, float)) else math.nan
    examples = int(found["n-samples"][task.name]["effective"])
    return HarnessFigure(value, examples) if math.isfinite(value) else None
