"""The base model: loaded in the precision asked for, and given its adapter."""

from finetune_trainer.model.eager import load_bitsandbytes

load_bitsandbytes()  # before PEFT does it
