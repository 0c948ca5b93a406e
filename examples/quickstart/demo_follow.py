"""Following a FineTuneJob: the rows of `kubectl get` as they change, what holds it up, and its end."""

import json
import subprocess
import threading
import time
from typing import Any

from demo_steps import DemoFailed, say
from demo_target import Target


class LiveView:
    """`kubectl get finetunejob --watch`, each row printed once with the time before it."""

    def __init__(self, target: Target, namespace: str, name: str) -> None:
        words, env = target.kubectl_words()
        words += ["--namespace", namespace, "get", "finetunejob", name, "--watch"]
        self._process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._thread = threading.Thread(target=self._print, daemon=True)
        self._thread.start()
        say(f"$ kubectl get finetunejob {name} --watch")

    def stop(self) -> None:
        """End the watch, after what it has to say about the end."""
        time.sleep(0.5)
        self._process.terminate()
        self._process.wait(timeout=20)
        self._thread.join(timeout=5)

    def _print(self) -> None:
        started = time.monotonic()
        last = ""
        for line in self._process.stdout or ():
            row = line.rstrip()
            shown = row.rsplit(None, 1)[0]  # but for the age
            if shown != last:
                say(f"{time.monotonic() - started:6.1f} s  {row}")
                last = shown


def follow(target: Target, namespace: str, name: str, timeout: float) -> dict[str, Any]:
    """Show the run until it ends well, and return the FineTuneJob.

    :raises DemoFailed: it failed, or had not ended after ``timeout`` seconds.
    """
    view = LiveView(target, namespace, name)
    deadline = time.monotonic() + timeout
    held_up = ""
    try:
        while True:
            job: dict[str, Any] = json.loads(target.kubectl("--namespace", namespace, "get", "finetunejob", name, "--output=json"))
            end = find_condition(job, "Succeeded")
            if end.get("status") == "True":
                return job
            if end.get("status") == "False":
                raise DemoFailed(f"{name} failed: {end['reason']}: {end['message']}")
            if (now := _explain(job)) != held_up and now:
                say(f"          {now}")
            held_up = now
            if time.monotonic() > deadline:
                raise DemoFailed(f"{name} has not ended after {timeout:.0f} s: {_explain(job) or 'it runs'}")
            time.sleep(1)
    finally:
        view.stop()


def find_condition(job: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition of a FineTuneJob; an empty one where it is not there."""
    conditions: list[dict[str, Any]] = job.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def collect_losses(job: dict[str, Any]) -> list[tuple[int, float]]:
    """Return step and loss of each point of the curve in status that has a loss."""
    history = job["status"].get("metrics", {}).get("history", [])
    return [(point["step"], point["loss"]) for point in history if point.get("loss") is not None]


def _explain(job: dict[str, Any]) -> str:
    """Return what keeps the run from training, in the words of its condition; nothing while it trains."""
    running = find_condition(job, "Running")
    return "" if running.get("status") == "True" or not running.get("message") else f"{running['reason']}: {running['message']}"


def describe_failure(target: Target, namespace: str, name: str, operator_namespace: str) -> str:
    """Return what is known about a run that went wrong: conditions, Events and the logs of operator and trainer."""
    lines = []
    for title, words in (
        ("FineTuneJob", ["--namespace", namespace, "describe", "finetunejob", name]),
        ("Jobs and pods", ["--namespace", namespace, "get", "jobs,pods", "--output=wide"]),
        ("Events", ["--namespace", namespace, "get", "events", "--sort-by=.lastTimestamp"]),
        ("trainer", ["--namespace", namespace, "logs", f"--selector=finetune.dev/job-name={name}", "--tail=60", "--all-containers"]),
        ("operator's pod", ["--namespace", operator_namespace, "get", "pods,events"]),
        ("operator", ["--namespace", operator_namespace, "logs", "--selector=app.kubernetes.io/name=finetune-operator", "--tail=60"]),
    ):
        try:
            said = target.kubectl(*words, timeout=30).rstrip()
        except DemoFailed as error:
            said = str(error)
        lines.append(f"--- {title}\n{said[-6000:]}")
    lines.append(target.describe_trouble())
    return "\n".join(lines)
