"""The entry point of ``finetune-model-cache``: what fills the shared cache of base models, and shows how full it is."""

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from finetune_api.cache_usage import CacheUsage
from finetune_api.names import ENV_PREFIX_MODEL, ENV_PREFIX_TEACHER, MODEL_CACHE_ROOT, TERMINATION_MESSAGE_PATH
from finetune_api.quantity import parse_quantity
from finetune_api.spec import ModelSpec
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.configuration import read_config
from finetune_trainer.ending import ENV_TERMINATION_MESSAGE
from finetune_trainer.logs import set_up_logging
from finetune_trainer.storage.cache import ModelCache, Usage
from finetune_trainer.storage.cached import fill_from_hub, identify, is_cacheable, write_handover
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.transfer import format_bytes

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
    elif options.command == "trim":
        _trim(cache, options.free, options.unused_days)
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
        usage = cache.measure()
        logger.info("model cache: %s", usage)
        _leave_usage(usage, environ)
    except Exception as error:  # noqa: BLE001  see above
        logger.warning("the model cache can't be used: %s", error)
    return 0


def _leave_usage(usage: Usage, environ: Mapping[str, str]) -> None:
    """Write how full the cache is where the kubelet takes a container's last words from: status and metrics show it."""
    path = Path(environ.get(ENV_TERMINATION_MESSAGE) or TERMINATION_MESSAGE_PATH)
    if not path.exists():
        return  # the kubelet makes the file
    told = CacheUsage(
        models=len(usage.entries),
        used_bytes=sum(entry.size_bytes for entry in usage.entries.values()),
        partial_bytes=usage.partial_bytes,
        free_bytes=usage.free_bytes,
        total_bytes=usage.total_bytes,
    )
    with path.open("w", encoding="utf-8") as file:
        file.write(told.model_dump_json(by_alias=True))


def _trim(cache: ModelCache, free: str, unused_days: float) -> None:
    """Remove what was not asked for for longest, and say what."""
    for key, entry in cache.trim(int(parse_quantity(free)), unused_days, time.time()):
        logger.info("%s at commit %s (%s, %s) is removed", entry.uri, entry.commit, key, format_bytes(entry.size_bytes))
    logger.info("model cache: %s", cache.measure())


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


def _read_quantity(text: str) -> str:
    """Return ``text`` where it is a quantity; argparse makes a usage error of what is none."""
    parse_quantity(text)
    return text


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
    trim = commands.add_parser("trim", help="remove the models that are longest unused, until there is room")
    trim.add_argument("--free", required=True, metavar="QUANTITY", type=_read_quantity, help="space that is to be free, such as 100Gi")
    trim.add_argument(
        "--unused-days", type=float, default=7.0, metavar="DAYS", help="what was asked for within so many days stays (default: %(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
