"""The whole way, shown: a cluster, the operator, a FineTuneJob that trains in a pod, and its adapter verified and used.

Every step says what it does and how long it took. What fails says why, with the logs, and the exit status is then 1. At the end all is
stopped and removed but the cache, by which the next run starts in seconds; `--keep` leaves cluster and FineTuneJob for you to look at.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from demo_current import CurrentCluster
from demo_follow import collect_losses, describe_failure, follow
from demo_steps import Background, DemoFailed, Steps, run, say
from demo_target import OPERATOR, TRAINER, DevelopmentCluster, Target, split_image
from demo_verify import fetch_artifact, remove_outputs

from finetune_devcluster.errors import DevClusterError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MANIFEST = ROOT / "examples" / "quickstart.yaml"
CHART = ROOT / "charts" / "finetune-operator"
RELEASE = "finetune-operator"
OPERATOR_NAMESPACE = "finetune-system"
NAMESPACE = "finetune-quickstart"
NAME = "quickstart"
SECRET = "quickstart-s3"
OUTPUT = "adapters/quickstart"
"""What the manifest calls the run, the Secret and the folder of the results in the bucket."""


class Demo:
    """One run of the demo."""

    def __init__(self, target: Target, *, simulated_gpus: int, keep: bool, timeout: float) -> None:
        """Remember where it runs and what was asked for; ``timeout`` is how long the training may take, in seconds."""
        self._target = target
        self._simulated_gpus = simulated_gpus
        self._keep = keep
        self._timeout = timeout
        self._steps = Steps()
        self._started = False
        self._succeeded = False

    def run(self) -> None:
        """Show everything, then clean up.

        :raises DemoFailed: something went wrong; logs and conditions are printed already.
        """
        started = time.monotonic()
        # Made beside the cluster and the images: the first time it takes minutes, later it lies in the cache.
        base_model = Background("base_model.py", "--if-missing")
        try:
            self._show(base_model)
            self._succeeded = True
        except (DemoFailed, DevClusterError):
            if self._started:
                print(describe_failure(self._target, NAMESPACE, NAME, OPERATOR_NAMESPACE), file=sys.stderr)
            raise
        finally:
            base_model.stop()
            self._finish()
        self._steps.print_summary(time.monotonic() - started)

    def _show(self, base_model: Background) -> None:
        with self._steps.step("A Kubernetes cluster"):
            self._target.start()
            self._started = True
        with self._steps.step("The images of operator and trainer"):
            images = self._target.provide_images()
        with self._steps.step("The operator, by its Helm chart"):
            self._install(images)
        with tempfile.TemporaryDirectory(prefix="finetune-demo-") as scratch:
            data, adapter = Path(scratch, "data"), Path(scratch, "adapter")
            with self._steps.step("A base model and a dataset, in the S3 store"):
                model = Path(base_model.result(timeout=1200))
                self._fill_store(model, data)
            with self._steps.step(f"A FineTuneJob, by kubectl apply -f {MANIFEST.relative_to(ROOT)}"):
                self._apply()
            with self._steps.step("It trains, in a pod"):
                self._train()
            with self._steps.step("Its adapter in the store, verified"):
                self._verify(adapter)
            with self._steps.step("The adapter, loaded by PEFT and asked a question"):
                words: list[str | Path] = ["--base", model, "--adapter", adapter, "--rows", data / "stdlib-docs-heldout.jsonl"]
                answer = run([sys.executable, HERE / "answers.py", *words], timeout=300)
                for line in answer.splitlines():
                    say(line)

    def _install(self, images: dict[str, str]) -> None:
        values = ["logging.format=text", f"development.simulatedGpus={str(bool(self._simulated_gpus)).lower()}"]
        texts = []
        for prefix, name in (("image", OPERATOR), ("trainer.image", TRAINER)):
            repository, tag, digest = split_image(images[name])
            texts += [f"{prefix}.repository={repository}", f"{prefix}.tag={tag}", f"{prefix}.digest={digest}"]
        self._target.helm(
            *("upgrade", "--install", RELEASE, str(CHART), "--namespace", OPERATOR_NAMESPACE, "--create-namespace"),
            *(word for value in values for word in ("--set", value)),
            # As text, or a tag of digits alone would become a number.
            *(word for text in texts for word in ("--set-string", text)),
        )
        if self._target.is_own:
            # A cluster that was kept may have the CRD of an older tree, which Helm leaves alone.
            self._target.kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(CHART / "crds"))
        words = ["--namespace", OPERATOR_NAMESPACE, "rollout", "status", f"deployment/{RELEASE}", "--timeout=180s"]
        self._target.kubectl(*words, timeout=200)
        say(f"release {RELEASE} in namespace {OPERATOR_NAMESPACE} is ready; its image: {images[OPERATOR]}")

    def _fill_store(self, model: Path, data: Path) -> None:
        say(run([sys.executable, HERE / "dataset.py", "--output", data]).strip().replace(f"{data}/", ""))
        store = self._target.store
        words: list[str | Path] = [sys.executable, HERE / "upload.py", "--model", model, "--data", data, "--bucket", store.bucket]
        say(run(words, store.environment(pod=False), timeout=300).strip())

    def _apply(self) -> None:
        # What an earlier run left behind must not be taken for this one's.
        self._target.kubectl(
            *("--namespace", NAMESPACE, "delete", "finetunejob", NAME, "--ignore-not-found", "--timeout=120s"), timeout=150
        )
        store = self._target.store
        remove_outputs(store, f"{store.bucket}/{OUTPUT}")
        self._create_or_update({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET},
            "stringData": self._target.store.environment(pod=True),
        }
        self._create_or_update(secret)
        words = ["--namespace", NAMESPACE, "apply", "--filename"]
        if not self._simulated_gpus:
            say(self._target.kubectl(*words, str(MANIFEST)).strip())
            return
        say("resources.gpus: 1 in place of 0, on GPUs that the node only claims to have: the trainer runs on the CPU and says so")
        # Read by kubectl, which reads numbers such as 2e-3 as the API server does.
        read = ["--namespace", NAMESPACE, "create", "--dry-run=client", "--output=json", "--filename", str(MANIFEST)]
        manifest = json.loads(self._target.kubectl(*read))
        manifest["spec"]["resources"]["gpus"] = 1
        say(self._target.kubectl(*words, "-", stdin=json.dumps(manifest)).strip())

    def _create_or_update(self, manifest: Mapping[str, object]) -> None:
        words = ["apply", "--server-side", "--force-conflicts", "--filename=-"]
        say(self._target.kubectl("--namespace", NAMESPACE, *words, stdin=json.dumps(manifest)).strip())

    def _train(self) -> None:
        job = follow(self._target, NAMESPACE, NAME, self._timeout)
        losses = collect_losses(job)
        quarter = max(1, len(losses) // 4)
        first, last = (sum(loss for _, loss in part) / quarter for part in (losses[:quarter], losses[-quarter:])) if losses else (0.0, 0.0)
        if not last < first:
            raise DemoFailed(f"the loss did not fall: {losses}")
        status = job["status"]
        metrics, counts = status["metrics"], status["dataset"]
        say("loss by step: " + ", ".join(f"{step}: {loss:.2f}" for step, loss in losses[:: max(1, len(losses) // 8)]))
        say(f"mean loss of the first quarter {first:.2f}, of the last {last:.2f}")
        say(f"on rows that are never learnt: {metrics['baseEvalLoss']:.2f} before, {metrics['evalLoss']:.2f} after")
        say(f"{counts['examples']} examples, {metrics['tokensSeen']:,} tokens, {status['restarts']} restarts")
        if writes := self._target.describe_writes(NAMESPACE):
            say(f"the operator's writes to the API server for it: {writes}")

    def _verify(self, folder: Path) -> None:
        job = json.loads(self._target.kubectl("--namespace", NAMESPACE, "get", "finetunejob", NAME, "--output=json"))
        artifacts = job["status"].get("artifacts") or []
        if len(artifacts) != 1:
            raise DemoFailed(f"status.artifacts has {len(artifacts)} entries, not 1")
        fetch_artifact(self._target.store, artifacts[0], folder)

    def _finish(self) -> None:
        """Remove what the demo made; a failure here is told, and does not hide one before."""
        if not self._started:
            self._target.stop()
            return
        if self._keep:
            self._say_how_to_go_on()
            return
        try:
            with self._steps.step("Cleaning up"):
                remove_all(self._target, check=self._succeeded)
        except (DemoFailed, DevClusterError) as error:
            print(f"cleaning up: {error}", file=sys.stderr)
            if self._succeeded:
                raise

    def _say_how_to_go_on(self) -> None:
        command = "make demo-down" if self._target.is_own else "make demo-down CLUSTER=current"
        print(f"\nKept: namespace {NAMESPACE}, release {RELEASE}. `{command}` removes them.", flush=True)
        if self._target.is_own:
            program, environment = self._target.kubectl_words()
            folders = f"{Path(sys.prefix, 'bin')}:{Path(program[0]).parent}"
            print("For a shell of yours, with kubectl and this checkout's finetune:", flush=True)
            print(f"    export KUBECONFIG={environment['KUBECONFIG']} PATH={folders}:$PATH", flush=True)
            print(f"    kubectl --namespace {NAMESPACE} get ftj", flush=True)


def remove_all(target: Target, *, check: bool) -> None:
    """Remove everything that the demo makes in a cluster, then stop the cluster if it is the demo's own.

    :raises DemoFailed: with ``check``, deleting the FineTuneJob left something of it behind.
    """
    try:
        if check:
            target.kubectl("--namespace", NAMESPACE, "delete", "finetunejob", NAME, "--ignore-not-found", "--timeout=60s", timeout=90)
            await_nothing_left(target)
            say(f"FineTuneJob {NAME} deleted; its Job and pods went with it")
        if not target.is_own:
            target.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=400s", timeout=420)
            target.helm("uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--ignore-not-found", "--wait")
            target.kubectl("delete", "namespace", OPERATOR_NAMESPACE, "--ignore-not-found", "--timeout=120s", timeout=150)
            say("release and namespaces removed; the CRD stays, as other FineTuneJobs may need it")
    finally:
        target.stop()
    if target.is_own:
        say("cluster stopped; the cache stays, so the next run starts in seconds")


def await_nothing_left(target: Target, timeout: float = 60) -> None:
    """Wait until no Job and no pod is left in the demo's namespace.

    :raises DemoFailed: something still is after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while left := target.kubectl("--namespace", NAMESPACE, "get", "jobs,pods", "--output=name").split():
        if time.monotonic() > deadline:
            raise DemoFailed(f"the FineTuneJob is gone, but these are left: {', '.join(left)}")
        time.sleep(0.5)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Show the whole way from a cluster to a fine-tuned adapter.")
    parser.add_argument(
        "--cluster", default="demo", metavar="NAME", help="`current` for the kubeconfig's own; else the name of a development cluster"
    )
    parser.add_argument("--mode", choices=("auto", "node", "process-node"), default="auto", help="how the development cluster runs pods")
    parser.add_argument("--simulated-gpus", type=int, default=0, metavar="N", help="advertise GPUs that are not there, and ask for one")
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument("--down", action="store_true", help="only remove what a run with --keep has left")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="longest time of the training (default: %(default)s)")
    return parser.parse_args()


def _stop(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)  # so that what is running is cleaned up


def main() -> int:
    """Run the demo and return the exit status."""
    options = _read_arguments()
    signal.signal(signal.SIGTERM, _stop)
    try:
        target: Target = (
            CurrentCluster() if options.cluster == "current" else DevelopmentCluster(options.cluster, options.mode, options.simulated_gpus)
        )
        if options.down:
            target.attach()
            remove_all(target, check=False)
        else:
            Demo(target, simulated_gpus=options.simulated_gpus, keep=options.keep, timeout=options.timeout).run()
    except (DemoFailed, DevClusterError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
