# The two images of the project: targets `operator` and `trainer`.
#
#   docker build --target operator --tag finetune-operator .
#   buildah bud --isolation chroot --layers --target trainer --tag finetune-trainer .
#
# Where packages come from is the builder's environment, not this file's business. A secret `environment` (lines of
# NAME=VALUE) may set UV_DEFAULT_INDEX, PIP_INDEX_URL, HTTPS_PROXY and the like, and a secret `ca-certificates` is there to be
# named by SSL_CERT_FILE; neither leaves a trace in an image.
#
#   docker build --secret id=ca-certificates,src=/etc/ssl/certs/ca-certificates.crt \
#     --build-arg SSL_CERT_FILE=/run/secrets/ca-certificates …
#
# VERSION is what the tree's newest tag says (`make -s version`): git's history is not part of the build's context.
#
# For several architectures (linux/amd64, linux/arm64): `docker buildx build --platform linux/amd64,linux/arm64 …`, or buildah's
# `--platform` with `--manifest`. Stages whose result is the same everywhere run on the builder's own architecture.
ARG BASE_IMAGE=python:3.12-slim
ARG UV_VERSION=0.13.8

# Everything that both images start from. Needed of a base: python3 (3.11 or newer) with venv, ca-certificates, a shell.
FROM ${BASE_IMAGE} AS base
# A name for the user: libraries that ask who they run as (getpass.getuser) fail without one.
RUN echo 'finetune:x:10001:10001::/tmp:/usr/sbin/nologin' >>/etc/passwd && echo 'finetune:x:10001:' >>/etc/group

# Programs of the build; none of them is in an image.
FROM --platform=$BUILDPLATFORM ${BASE_IMAGE} AS tools
ARG UV_VERSION
ARG HATCHLING_VERSION=1.33.0
ARG HATCH_VCS_VERSION=0.5.0
ARG SSL_CERT_FILE
RUN --mount=type=secret,id=environment --mount=type=secret,id=ca-certificates \
    set -a; if [ -f /run/secrets/environment ]; then . /run/secrets/environment; fi; set +a; \
    export PIP_CERT="${PIP_CERT:-${SSL_CERT_FILE:-}}" && python3 -m venv /opt/tools && \
    /opt/tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}" "hatchling==${HATCHLING_VERSION}" \
      "hatch-vcs==${HATCH_VCS_VERSION}"

# What uv.lock says of each image, as files of their own: a layer of dependencies is built anew only when its own file changes.
FROM tools AS requirements
# More extras for the trainer's image, separated by commas: `harness` is lm-evaluation-harness.
ARG TRAINER_EXTRAS=
COPY pyproject.toml uv.lock /source/
RUN for target in operator trainer; do \
      extras="--extra $target --extra tracing"; if [ $target = trainer ]; then extras="$extras --extra trackers"; fi; \
      if [ $target = trainer ]; then for extra in $(echo "$TRAINER_EXTRAS" | tr , ' '); do extras="$extras --extra $extra"; done; fi; \
      mkdir -p /requirements/$target && \
      /opt/tools/bin/uv export --project /source --frozen --no-dev $extras --no-emit-project --no-header --no-annotate --quiet \
        --output-file /requirements/$target/requirements.txt && touch -d @0 /requirements/$target/requirements.txt /requirements/$target || exit 1; \
    done

# The project's own packages, installed and compiled, without anything that they need: Python alone, the same on every architecture.
FROM tools AS project
ARG VERSION=0.0.0.dev0
COPY pyproject.toml README.md LICENSE /source/
COPY api/finetune_api /source/api/finetune_api
COPY operator/finetune_operator /source/operator/finetune_operator
COPY trainer/finetune_trainer /source/trainer/finetune_trainer
COPY sdk/finetune_sdk /source/sdk/finetune_sdk
COPY cli/finetune_cli /source/cli/finetune_cli
RUN export SETUPTOOLS_SCM_PRETEND_VERSION="${VERSION}" && cd /source && /opt/tools/bin/python -m hatchling build --target wheel --directory /wheels && \
    /opt/tools/bin/uv venv --quiet --python "$(command -v python3)" /opt/finetune && \
    /opt/tools/bin/uv pip install --quiet --python /opt/finetune --offline --no-deps /wheels/*.whl && \
    /opt/finetune/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/finetune/lib

# From here on, each architecture for itself: wheels with compiled parts.
FROM base AS operator-dependencies
ARG UV_VERSION
ARG SSL_CERT_FILE
ARG UV_CACHE_DIR=/var/cache/uv
COPY --from=requirements /requirements/operator /opt/finetune-requirements
RUN --mount=type=cache,id=uv,target=/var/cache/uv --mount=type=secret,id=environment --mount=type=secret,id=ca-certificates \
    set -a; if [ -f /run/secrets/environment ]; then . /run/secrets/environment; fi; set +a; \
    export PIP_CERT="${PIP_CERT:-${SSL_CERT_FILE:-}}" UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never PYC_INVALIDATION_MODE=UNCHECKED_HASH && \
    python3 -m venv /tmp/tools && /tmp/tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}" && \
    /tmp/tools/bin/uv venv --quiet --python "$(command -v python3)" /opt/finetune && \
    /tmp/tools/bin/uv pip sync --python /opt/finetune --require-hashes --compile-bytecode /opt/finetune-requirements/requirements.txt && \
    rm -rf /tmp/tools

# The large layer (torch and the CUDA libraries that it needs): a change of the project's own code does not touch it.
FROM base AS trainer-dependencies
ARG UV_VERSION
ARG SSL_CERT_FILE
ARG UV_CACHE_DIR=/var/cache/uv
COPY --from=requirements /requirements/trainer /opt/finetune-requirements
RUN --mount=type=cache,id=uv,target=/var/cache/uv --mount=type=secret,id=environment --mount=type=secret,id=ca-certificates \
    set -a; if [ -f /run/secrets/environment ]; then . /run/secrets/environment; fi; set +a; \
    export PIP_CERT="${PIP_CERT:-${SSL_CERT_FILE:-}}" UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never PYC_INVALIDATION_MODE=UNCHECKED_HASH && \
    python3 -m venv /tmp/tools && /tmp/tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}" && \
    /tmp/tools/bin/uv venv --quiet --python "$(command -v python3)" /opt/finetune && \
    /tmp/tools/bin/uv pip sync --python /opt/finetune --require-hashes --compile-bytecode /opt/finetune-requirements/requirements.txt && \
    rm -rf /tmp/tools && \
    mkdir /work && chown 10001:10001 /work

FROM operator-dependencies AS operator
COPY --from=project /opt/finetune /opt/finetune
ENV PATH=/opt/finetune/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG VERSION=0.0.0.dev0
LABEL org.opencontainers.image.title="finetune-operator" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.description="Kubernetes operator for QLoRA fine-tuning: runs FineTuneJobs" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /
USER 10001:10001
EXPOSE 8080 8443
ENTRYPOINT ["finetune-operator"]

FROM trainer-dependencies AS trainer
# Debian packages beside: a compiler of C, for `training.compile` and TRL's Triton kernels. None by default; what GPUs need of
# python:3.12-slim is "gcc libc6-dev", processors "g++", and a base whose Python is Debian's own "python3-dev" too.
ARG TRAINER_PACKAGES=
RUN --mount=type=secret,id=environment \
    if [ -n "$TRAINER_PACKAGES" ]; then \
      set -a; if [ -f /run/secrets/environment ]; then . /run/secrets/environment; fi; set +a; \
      apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends $TRAINER_PACKAGES && rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
    fi
COPY --from=project /opt/finetune /opt/finetune
ENV PATH=/opt/finetune/bin:/usr/local/bin:/usr/bin:/bin HOME=/work PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG VERSION=0.0.0.dev0
LABEL org.opencontainers.image.title="finetune-trainer" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.description="Trainer of FineTuneJobs: QLoRA by TRL, PEFT and bitsandbytes" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["finetune-trainer"]
