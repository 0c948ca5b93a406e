"""Setting up the judge of a run."""

from collections.abc import Sequence
from typing import Any

from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.data import Examples
from finetune_trainer.data.tokenizing import ExampleTokenizer
from finetune_trainer.evaluation import Judge, Task
from finetune_trainer.evaluation.harness import HarnessTask
from finetune_trainer.evaluation.prompts import choose_samples
from finetune_trainer.interruption import Interruption


def build_judge(
    config: TrainerConfig,
    examples: Examples,
    tokenizer: Any,  # noqa: ANN401
    tasks: Sequence[Task],
    interruption: Interruption,
    harness: Sequence[HarnessTask] = (),
) -> Judge:
    """Build the judge: prompts are written, and answers ended, as in the training data."""
    written = ExampleTokenizer(tokenizer, examples.train[0], examples.format, completion_only=False)
    samples = config.evaluation.samples
    return Judge(
        config.evaluation,
        tokenizer,
        choose_samples(examples.eval or examples.train, samples.count, samples.prompts),
        tasks,
        harness,
        seed=config.training.seed,
        compute_dtype=config.method.quantization.compute_dtype,
        max_length=config.training.max_length,
        conversational=written.conversational,
        instruction=examples.format == "instruction" and not written.conversational,
        stop_ids=sorted(written.stop_ids),
        stop_requested=interruption.poll if config.divides_model else lambda: interruption.asked,
        stops_midway=not config.divides_model,
    )
