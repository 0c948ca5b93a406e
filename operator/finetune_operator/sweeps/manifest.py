"""The FineTuneJob of a trial. Pure."""

from typing import Any

from finetune_api.names import API_VERSION, KIND, LABEL_SWEEP_NAME, LABEL_SWEEP_UID, SWEEP_KIND
from finetune_api.report import JobReference
from finetune_api.sweep.spec import FineTuneSweepSpec
from finetune_api.sweep.trials import Trial, build_trial_spec

Manifest = dict[str, Any]


def build_trial_job(spec: FineTuneSweepSpec, sweep: JobReference, trial: Trial) -> Manifest:
    """Return the FineTuneJob of ``trial``, owned by ``sweep``: it goes when the sweep goes.

    :raises SpecInvalid: the combination makes no valid FineTuneJob.
    """
    labels = {**spec.template.labels, LABEL_SWEEP_NAME: sweep.name, LABEL_SWEEP_UID: sweep.uid}
    owner = {"apiVersion": API_VERSION, "kind": SWEEP_KIND, "name": sweep.name, "uid": sweep.uid, "controller": True}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": trial.build_name(sweep.name),
            "namespace": sweep.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": build_trial_spec(spec, trial, sweep.name).model_dump(mode="json", exclude_unset=True),
    }
