"""What a run leaves for people: the report page and the model card. Everything here is pure: text in, text out."""

from finetune_trainer.documents.card import build_card
from finetune_trainer.documents.facts import RunFacts
from finetune_trainer.documents.report_page import build_report_page

__all__ = ["RunFacts", "build_card", "build_report_page"]
