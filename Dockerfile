# One image for everything: extraction, training, evaluation, prediction and the MLflow server.
#
#   make image                                 the CPU image, with buildah
#   make image TARGET=cuda                     for NVIDIA GPUs
#   docker build --target cpu -t sdst:0.1.0-cpu .
#
# BASE is Debian 12 or an image compatible with it; Python 3.11 comes from its packages. The CUDA
# libraries come with PyTorch's wheels, the driver from the host.
ARG BASE=docker.io/library/debian:12.12-slim

FROM ${BASE} AS python
ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/venv/bin:$PATH
# wget and a login shell that finds Python are what KubeRay's probes and start commands count on.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 wget \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt \
    && echo "PATH=$PATH" > /etc/profile.d/venv.sh \
    && useradd --uid 1000 --user-group --home-dir /tmp --no-create-home --shell /bin/bash sdst

FROM python AS builder
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        build-essential python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt \
    && /usr/bin/python3 -m venv --without-pip /opt/venv
WORKDIR /opt/sdst
# What is installed depends on these files alone: other code does not install everything again.
COPY pyproject.toml constraints.txt LICENSE ./
RUN touch README.md
# pip stays outside of the environment that the image gets. A pip.conf of yours (for a mirror) is
# used and not kept. TORCH_INDEX is where PyTorch without CUDA is found.
ENV PIP_PYTHON=/opt/venv/bin/python PIP_CONSTRAINT=/opt/sdst/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 DS_BUILD_OPS=0

FROM builder AS packages-cpu
ARG EXTRAS=quickstart,internvideo2,s3,mlflow-server
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    /usr/bin/python3 -m pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
        --no-compile --editable ".[${EXTRAS}]"
# A third of that is never used here: tests, headers, type stubs, Ray's Java and RLlib, source maps,
# Arrow's network protocol, and symbol tables. (With CUDA the headers are: Triton compiles against
# them. Symbols stay where a wheel's libraries were patched after linking, as NumPy's: stripped,
# those do not load.)
RUN find /opt/venv -depth -type d \( -name tests -o -name test -o -name include -o -name jars \
        -o -path '*/ray/rllib' \) \
        -exec rm -rf {} + \
    && find /opt/venv -type f \( -path '*/torch/bin/*' ! -name torch_shm_manager \
        -o -name '*.js.map' -o -name '*.pyi' -o -name 'libarrow_flight*' \) -delete \
    && find /opt/venv -type f \( -path '*/torch/lib/*.so' -o -path '*/pyarrow/*.so.*' \
        -o -path '*/ray/*.so' -o -path '*/ray/core/*/raylet' -o -path '*/ray/core/*/gcs_server' \
        -o -name '*.abi3.so' \) -exec strip --strip-unneeded {} +

FROM builder AS packages-cuda
ARG EXTRAS=internvideo2,s3,deepspeed,gpu
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    /usr/bin/python3 -m pip install --editable ".[${EXTRAS}]"

FROM python AS code
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sdst" \
      org.opencontainers.image.description="Ground sentences in video: extraction, training, prediction" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY pyproject.toml README.md LICENSE /opt/sdst/
COPY configs /opt/sdst/configs
COPY model /opt/sdst/model
COPY data_pipeline /opt/sdst/data_pipeline
COPY trainer /opt/sdst/trainer
COPY launch /opt/sdst/launch
# The root file system may be read-only: caches go to the home folder, /tmp, results to /data. A pod's
# first process leaves its bytecode there for the others; in the image it would weigh 400 MB.
ENV HOME=/tmp PYTHONPATH=/opt/sdst PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=/tmp/bytecode
WORKDIR /data
RUN chown 1000:1000 /data
USER 1000:1000
# No init process and no shell: what is started is process 1 and gets the signals itself.
CMD ["python", "-m", "launch.quickstart"]

FROM code AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /opt/venv /opt/venv

FROM code AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
