"""The entry point of ``finetune-model-cache``: what fills the shared cache of base models, and shows how full it is."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from finetune_api.names import ENV_PREFIX_MODEL, ENV_PREFIX_TEACHER, MODEL_CACHE_ROOT
from finetune_api.spec import ModelSpec
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.configuration import read_config
from finetune_trainer.logs import set_up_logging
from finetune_trainer.storage.cache import ModelCache
from finetune_trainer.storage.cached import fill_from_hub, identify, is_cacheable, write_handover
from finetune_trainer.storage.credentials import Credentials

WAIT_SECONDS: Final = 3600.0
"""Longest wait for another pod that fetches the same model; then each goes its own way."""

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the arguments say and end the process."""
    set_up_logging()
    # The first process of a container has no default for it. Nothing is lost: the next one goes on from what is there.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    sys.exit(run(sys.argv[1:] if arguments is None else arguments, os.environ))


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what ``arguments`` say and return the exit code."""
    options = _parse(arguments)
    cache = ModelCache(options.cache)
    if options.command == "fill":
        return _fill(cache, environ)
    if options.command == "pull":
        model = ModelSpec(uri=options.uri, revision=options.revision, endpoint_url=options.endpoint_url)
        if not is_cacheable(model):
            logger.error("%s: only models of a hub (hf://) are kept in the cache", options.uri)
            return 1
        key, entry = fill_from_hub(cache, model, Credentials.from_environ(ENV_PREFIX_MODEL, environ), WAIT_SECONDS)
        logger.info("%s at commit %s is in the cache as %s; %s", entry.uri, entry.commit, key, cache.measure())
    elif options.command == "remove":
        cache.discard(options.key)
    else:
        _show(cache)
    return 0


def _fill(cache: ModelCache, environ: Mapping[str, str]) -> int:
    """Fetch the models of the run that this pod is for. Never fails: what is not there the trainer fetches, or says what is wrong."""
    try:
        config = read_config(None, environ)
        keys: dict[str, str] = {}
        for model, prefix in _models_of(config):
            try:
                key, entry = fill_from_hub(cache, model, Credentials.from_environ(prefix, environ), WAIT_SECONDS)
            except Exception as error:  # noqa: BLE001  see above
                logger.warning("%s is not in the model cache: %s", model.uri, error)
            else:
                keys[identify(model)] = key
                logger.info("%s at commit %s is in the model cache", entry.uri, entry.commit)
        write_handover(Path(config.work_dir), keys)
        logger.info("model cache: %s", cache.measure())
    except Exception as error:  # noqa: BLE001  see above
        logger.warning("the model cache can't be used: %s", error)
    return 0


def _models_of(config: TrainerConfig) -> list[tuple[ModelSpec, str]]:
    distill = config.method.distill
    models = [(config.model, ENV_PREFIX_MODEL), *([(distill.teacher, ENV_PREFIX_TEACHER)] if distill is not None else [])]
    return [(model, prefix) for model, prefix in models if is_cacheable(model)]


def _show(cache: ModelCache) -> None:
    usage = cache.measure()
    report = {
        "models": [
            {"key": key, "uri": entry.uri, "commit": entry.commit, "bytes": entry.size_bytes} for key, entry in usage.entries.items()
        ],
        "partialBytes": usage.partial_bytes,
        "freeBytes": usage.free_bytes,
        "totalBytes": usage.total_bytes,
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="finetune-model-cache", description="Fill and look at a shared cache of base models.")
    parser.add_argument("--cache", type=Path, default=Path(MODEL_CACHE_ROOT), metavar="FOLDER", help="its root (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fill", help="fetch the models of the run in FINETUNE_CONFIG; always succeeds")
    pull = commands.add_parser("pull", help="fetch one model ahead of its runs")
    pull.add_argument("uri", metavar="hf://organisation/name")
    pull.add_argument("--revision", help="branch, tag or commit")
    pull.add_argument("--endpoint-url", help="a mirror of the hub")
    commands.add_parser("show", help="print what is there and how full it is, as JSON")
    commands.add_parser("remove", help="remove a model").add_argument("key")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
