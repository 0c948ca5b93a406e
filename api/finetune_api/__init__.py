"""The FineTuneJob resource and the contracts between operator and trainer.

Everything here is data: pydantic models, tables and pure functions over them. This package imports neither kopf, nor a
Kubernetes client, nor torch, so that the operator, the trainer and the command line can all share it.
"""
