"""Judging a run: sample answers and scored tasks, before training and after it."""

from finetune_trainer.evaluation.judge import Judge
from finetune_trainer.evaluation.results import Evaluation, Sample, TaskResult
from finetune_trainer.evaluation.tasks import Task, load_tasks

__all__ = ["Evaluation", "Judge", "Sample", "Task", "TaskResult", "load_tasks"]
