# `make demo` shows the whole way on a real cluster; `make test` passes the tests. Both install what they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

UV_VERSION := 0.13.8
UV := .tools/bin/uv
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# Thread pools of two training processes on few cores fight each other.
export OMP_NUM_THREADS ?= 1
# Hundreds of processes import the same two thousand modules: each would compile them all.
unexport PYTHONDONTWRITEBYTECODE

##@ The two commands

.PHONY: demo
demo: setup ## The whole way on a real cluster. CLUSTER=current: the kubeconfig's own; SIMULATED_GPUS=1; KEEP=1: leave it running
	$(if $(CLUSTER),,-$(PYTHON) -m finetune_devcluster packages)
	$(PYTHON) examples/quickstart/demo.py $(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(SIMULATED_GPUS),--simulated-gpus $(SIMULATED_GPUS)) \
	  $(if $(KEEP),--keep) $(DEMO_FLAGS)

.PHONY: demo-down
demo-down: setup ## Remove what `make demo KEEP=1` left. CLUSTER=current: from the kubeconfig's own
	$(PYTHON) examples/quickstart/demo.py --down $(if $(CLUSTER),--cluster $(CLUSTER))

.PHONY: test
test: setup lint docs unit operator-alone packages integration faults trainer e2e ## Every check and test, the fast ones first

##@ Parts of the tests

.PHONY: lint
lint: setup ## Style, types, layers, and that generated files are as generated
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m finetune_api.generate --check
	$(PYTHON) -m finetune_cli.reference --check
	$(PYTHON) -m finetune_operator.metrics.reference --check
	$(PYTHON) -m release.licences
	$(PYTHON) -m release.support --check

.PHONY: unit
unit: setup ## Tests that need no cluster and no training library
	$(PYTEST) tests/unit -m "not torch and not cluster and not node" -n auto

.PHONY: operator-alone
operator-alone: operator-environment ## The operator's tests in an environment without torch
	! .venv-operator/bin/python -c "import torch" 2>/dev/null || { echo "torch is in the operator's environment" >&2; exit 1; }
	.venv-operator/bin/python -m pytest tests/unit/api tests/unit/operator

.PHONY: operator-environment
operator-environment: $(UV)
	UV_PROJECT_ENVIRONMENT=.venv-operator $(UV) sync --quiet --frozen --no-default-groups --extra operator --extra tracing --group test

.PHONY: integration
integration: setup binaries chromium ## Tests on a real control plane (etcd, API server, controllers, scheduler): no root needed
	$(PYTEST) tests/integration tests/devcluster tests/browser -m "not node and not torch" -n 2 --dist loadfile

.PHONY: faults
faults: setup binaries ## Faults between operator and API server, shortened. FULL=1: every crash point, and the table in the docs
	$(PYTEST) tests/faults -n 4 $(if $(FULL),tests/trainer/test_troubles.py --faults-full --faults-report docs/reference/faults.md)

.PHONY: ha
ha: setup binaries ## The leader killed, stopped, and paused for a minute, with the chart's Lease; writes the table in the docs
	FINETUNE_HA_FULL=1 $(PYTEST) tests/integration/operator/test_two_replicas.py

.PHONY: trainer
trainer: setup binaries ## Training for real, on the CPU
	$(PYTEST) tests/unit tests/trainer tests/integration -m torch

.PHONY: survival
survival: setup ## Twenty runs killed at random moments, each compared with one that was not; writes docs/reference/survival.md
	FINETUNE_TEST_KILLS=20 FINETUNE_TEST_KILLS_REPORT=docs/reference/survival.md $(PYTEST) tests/trainer/test_survival.py -k random

.PHONY: e2e
e2e: setup binaries ## Tests on a real node with containers, where this machine can run one; says so where it can't
	$(PYTEST) tests/devcluster tests/e2e -m node

##@ Benchmarks (they say the machine's load, and want it to be low)

.PHONY: bench-burst
bench-burst: setup binaries operator-environment ## From apply to Job: bursts of 1,000 beside plain Jobs
	$(PYTHON) benchmarks/operator/burst.py $(BENCH_FLAGS)

.PHONY: bench-calls
bench-calls: setup binaries operator-environment ## What a run's calls cost the API server (BENCH_FLAGS="--crds FOLDER --crds crds" compares definitions)
	$(PYTHON) benchmarks/operator/call_costs.py $(BENCH_FLAGS)

.PHONY: bench-baseline
bench-baseline: setup binaries operator-environment ## Ours, plain Jobs and a textbook operator on kopf, in turns
	$(PYTHON) benchmarks/operator/baseline.py $(BENCH_FLAGS)

.PHONY: bench-kubeflow
bench-kubeflow: setup binaries operator-environment ## Ours, plain Jobs, and Kubeflow Trainer with JobSet themselves, in turns (building them takes minutes the first time)
	PYTHONPATH=. $(PYTHON) benchmarks/operator/baseline.py --peer kubeflow --jobs 1000 $(BENCH_FLAGS)

.PHONY: bench-scale
bench-scale: setup binaries operator-environment ## 10,000 at once, at 50/s, idle and after a restart; 1,000 that report (an hour on two cores)
	$(PYTHON) benchmarks/operator/scale.py $(BENCH_FLAGS)

.PHONY: soak
soak: setup binaries operator-environment ## An hour of churn under random faults: does anything grow, get stuck, stay behind? MINUTES=60
	PYTHONPATH=. $(PYTHON) benchmarks/operator/soak.py --minutes $(or $(MINUTES),60) $(BENCH_FLAGS)

.PHONY: bench-trainer
bench-trainer: setup ## The trainer beside TRL and PEFT alone and LLaMA-Factory, in turns: docs/reference/speed.md
	$(PYTHON) -m benchmarks.trainer $(BENCH_FLAGS)

.PHONY: bench-startup
bench-startup: setup ## What a run does before its first step is done, phase by phase: docs/reference/speed.md
	$(PYTHON) -m benchmarks.trainer.startup $(BENCH_FLAGS)

.PHONY: bench-preparing
bench-preparing: setup ## Memory and time of reading, tokenising and packing data, by their number: docs/reference/speed.md
	$(PYTHON) -m benchmarks.trainer.preparing $(BENCH_FLAGS)

.PHONY: bench-curves
bench-curves: setup ## LoRA's curve on a base in 4 and 8 bits beside the one in 16: docs/reference/curves.md
	$(PYTHON) -m benchmarks.curves $(BENCH_FLAGS)

.PHONY: bench-page
bench-page: setup ## Write docs/reference/scale.md from the kept figures
	$(PYTHON) benchmarks/operator/page.py

.PHONY: bench-rules
bench-rules: setup ## What the CRD's rules cost the API server, by its own validator: a creation, and a write of the status
	PYTHONPATH=. $(PYTHON) benchmarks/rules/run.py $(BENCH_FLAGS)

.PHONY: bench-gates
bench-gates: setup binaries operator-environment ## Compare with the gates: mean of several runs plus a fifth
	$(PYTHON) benchmarks/operator/gates.py $(BENCH_FLAGS)

##@ Longer tests, by themselves

.PHONY: kueue
kueue: setup binaries ## The queue's tests against Kueue itself, built from its Go module (the first time takes minutes)
	$(PYTHON) -c 'from finetune_devcluster.binaries import ensure_binaries; ensure_binaries(["kueue", "helm"])'
	FINETUNE_REAL_KUEUE=1 $(PYTEST) tests/integration/kueue

.PHONY: gangs
gangs: setup binaries ## Groups placed whole or not at all, by coscheduling and Volcano themselves, built from their Go modules (the first time takes a quarter of an hour)
	$(PYTHON) -c 'from finetune_devcluster.binaries import ensure_binaries; ensure_binaries(["coscheduling", "vc-scheduler", "vc-controller-manager", "helm"])'
	FINETUNE_REAL_GANGS=1 $(PYTEST) tests/integration/gangs

.PHONY: monitoring
monitoring: setup binaries ## Prometheus itself scrapes the operator, evaluates the alerts and answers the dashboard (its build takes minutes, once)
	$(PYTHON) -c 'from finetune_devcluster.binaries import ensure_binaries; ensure_binaries(["prometheus", "promtool"])'
	FINETUNE_PROMETHEUS=1 $(PYTEST) tests/integration/operator/test_metrics.py

.PHONY: upgrade
upgrade: setup binaries ## The chart upgraded with runs under way, from the release at FROM (a tag or commit): make upgrade FROM=v0.1.0
	rm -rf .dev/previous && mkdir -p .dev/previous
	git archive $(FROM) charts operator api | tar -x -C .dev/previous
	FINETUNE_PREVIOUS=$(CURDIR)/.dev/previous $(PYTEST) tests/integration/chart/test_upgrade.py

.PHONY: page
page: setup binaries chromium ## The operator's page in Chromium; takes the docs' pictures of it
	FINETUNE_PICTURES=docs/pictures $(PYTEST) tests/browser

.PHONY: drill
drill: setup binaries ## One run preempted twenty times at random steps on a real node; writes docs/reference/preemption-drill.md
	$(PYTEST) tests/e2e/test_preemption.py --drill-full --drill-report docs/reference/preemption-drill.md

.PHONY: lost-node
lost-node: setup binaries ## A real node burns in mid-run, the operator on it: the run ends on another one, every step counted once. Takes minutes
	FINETUNE_LOST_NODE=1 FINETUNE_REQUIRE_NODE=1 $(PYTEST) tests/e2e/test_lost_node.py

.PHONY: group-methods
group-methods: setup ## Every adapter and objective by two processes, each with all of the model or half of it: the curve of one, and the same after a resume. Takes ten minutes
	FINETUNE_GROUP_METHODS=all $(PYTHON) -m pytest tests/trainer/test_group_methods.py tests/trainer/test_sharding.py

.PHONY: matrix
matrix: setup ## Every adapter x quantisation x objective x 1 or 2 processes, trained or refused: docs/reference/matrix.md. Half an hour; goes on where it was
	$(PYTHON) -m benchmarks.matrix $(MATRIX_FLAGS)

.PHONY: families
families: setup ## Every family of models in every way, as tiny ones: docs/reference/families.md. Takes minutes
	$(PYTHON) -m benchmarks.families

.PHONY: dashboard
dashboard: setup binaries chromium ## A live operator, Prometheus, and the docs' picture of what the dashboard shows of it
	$(PYTHON) -c 'from finetune_devcluster.binaries import ensure_binaries; ensure_binaries(["prometheus"])'
	FINETUNE_PROMETHEUS=1 FINETUNE_PICTURES=docs/pictures $(PYTEST) tests/integration/operator/test_dashboard_picture.py

.PHONY: pictures
pictures: setup binaries chromium page dashboard ## The docs' pictures, of page, dashboard and a real run on a cluster of its own: docs/pictures. Takes minutes
	-$(PYTHON) -m finetune_devcluster packages
	trap '$(PYTHON) examples/quickstart/demo.py --cluster pictures --down' EXIT; \
	  $(PYTHON) examples/quickstart/demo.py --cluster pictures --simulated-gpus 1 --keep && $(PYTHON) -m release.pictures --cluster pictures

##@ Release (docs/guide/releasing.md has the order)

.PHONY: version
version: setup ## Print the version of this tree, as images and chart have it; the newest tag says it
	@$(PYTHON) -m release.version --semantic

.PHONY: licences
licences: setup ## What is shipped has licences that let us; part of `make lint`
	$(PYTHON) -m release.licences

.PHONY: sbom
sbom: setup ## A bill of materials (CycloneDX) of each image's packages, into dist/
	$(PYTHON) -m release.sbom --to dist

.PHONY: signatures
signatures: setup binaries ## The release guide's signing with a key, run as it stands there by cosign itself (its build takes minutes, once)
	$(PYTHON) -c 'from finetune_devcluster.binaries import ensure_binaries; ensure_binaries(["cosign"])'
	FINETUNE_COSIGN=1 $(PYTEST) tests/integration/chart/test_signatures.py

.PHONY: audit
audit: setup ## Known vulnerabilities of what is locked. Error 1: some; error 69: nobody could be asked (OSV_URL names a mirror)
	$(PYTHON) -m release.audit

.PHONY: chart
chart: setup ## The chart as a file, with the version of this tree, into dist/
	$(PYTHON) -m release.chart --to dist

.PHONY: dist
dist: setup ## Everything that a release publishes beside its images, with checksums, into dist/
	rm -rf dist
	$(UV) build --quiet --out-dir dist
	rm -f dist/.gitignore
	$(PYTHON) -m release.chart --to dist
	$(PYTHON) -m release.sbom --to dist
	cd dist && sha256sum -- * >SHA256SUMS && cat SHA256SUMS

.PHONY: release-check
release-check: setup ## May this commit be released? At a tag, in the changelog, tested, reproducible, audited
	$(PYTHON) -m release.version --check
	$(PYTHON) -m release.changelog
	$(MAKE) reproducible audit test

.PHONY: reproducible
reproducible: setup ## Build the wheel twice and compare: the same source gives the same bytes
	@rm -rf dist/first dist/second
	$(UV) build --quiet --wheel --out-dir dist/first
	$(UV) build --quiet --wheel --out-dir dist/second
	cmp dist/first/*.whl dist/second/*.whl
	@sha256sum dist/first/*.whl

##@ Development

.PHONY: setup
setup: .venv/.synced ## The Python environment with everything in it

.venv/.synced: pyproject.toml uv.lock $(UV)
	$(UV) sync --frozen --all-extras
	@touch $@

$(UV):
	python3 -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.PHONY: docs
docs: $(UV) ## The docs site, into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 UV_PROJECT_ENVIRONMENT=.venv-docs $(UV) run --quiet --frozen --only-group docs mkdocs build --strict

.PHONY: generate
generate: setup ## Write the CRD, the editors' schema and the reference anew from the models
	$(PYTHON) -m finetune_api.generate
	$(PYTHON) -m finetune_cli.reference
	$(PYTHON) -m finetune_operator.metrics.reference
	$(PYTHON) -m release.support
	$(PYTHON) -c 'from tests.support.chart_values import PAGE, render_page; PAGE.write_text(render_page())'
	$(PYTHON) -c 'from tests.support.kustomize_base import BASE, render_base; BASE.write_text(render_base())'

.PHONY: format
format: setup ## Format the code and mend what ruff can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.PHONY: binaries
binaries: setup ## Kubernetes, etcd, Helm, CoreDNS and an S3 server, built from Go modules and cached
	$(PYTHON) -m finetune_devcluster binaries

.PHONY: chromium
chromium: ## Chromium, to look at the operator's page with (as root on Debian; elsewhere those tests say that they were left out)
	-@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

.PHONY: packages
packages: setup ## The Debian packages that a node needs (as root on Debian; elsewhere says what is missing, and goes on)
	-$(PYTHON) -m finetune_devcluster packages

.PHONY: images
images: setup ## Build the operator's and the trainer's image
	$(PYTHON) -m finetune_devcluster.image_builder

.PHONY: image-arm64
image-arm64: setup ## The operator's image for arm64, built and run under QEMU (root; Debian's qemu-user-static, arch-test). Takes up to half an hour
	$(PYTHON) -m release.arm64

.PHONY: cluster-up
cluster-up: setup ## A development cluster that stays; prints how to reach it
	$(PYTHON) -m finetune_devcluster up

.PHONY: cluster-down
cluster-down: setup ## Stop the development cluster without a trace
	$(PYTHON) -m finetune_devcluster down

.PHONY: clean
clean: ## Remove what was built here; the cache of binaries and images stays
	rm -rf .venv .venv-operator .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
