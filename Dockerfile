# Extraction, training, evaluation, prediction and the MLflow server, with CUDA or without.
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
# A third of that is never used here: tests, headers and C sources, type stubs, Ray's Java and RLlib,
# source maps, Arrow's network protocol, what boto knows of services other than the bucket and its
# login, and symbol tables. (With CUDA the headers are: Triton compiles against them. Symbols stay
# where a wheel's libraries were patched after linking, as NumPy's: stripped, those do not load.)
RUN find /opt/venv -depth -type d \( -name tests -o -name test -o -name include -o -name jars \
        -o -path '*/ray/rllib' \) \
        -exec rm -rf {} + \
    && find /opt/venv -type f \( -path '*/torch/bin/*' ! -name torch_shm_manager \
        -o -name '*.js.map' -o -name '*.pyi' -o -name '*.c' -o -name '*.cpp' -o -name '*.pyx' \
        -o -name '*.pxd' -o -name '*.h' -o -name 'libarrow_flight*' \) -delete \
    && find /opt/venv/lib/python3.11/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
        ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -rf {} + \
    && find /opt/venv -type f \( -path '*/torch/lib/*.so' -o -path '*/pyarrow/*.so.*' \
        -o -path '*/ray/*.so' -o -path '*/ray/core/*/raylet' -o -path '*/ray/core/*/gcs_server' \
        -o -name '*.abi3.so' \) -exec strip --strip-unneeded {} +

FROM builder AS packages-cuda
ARG EXTRAS=quickstart,internvideo2,s3,deepspeed,gpu
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    /usr/bin/python3 -m pip install --no-compile --editable ".[${EXTRAS}]"
RUN find /opt/venv -depth -type d \( -name tests -o -name test -o -name jars -o -path '*/ray/rllib' \) \
        -exec rm -rf {} + \
    && find /opt/venv -type f \( -name '*.js.map' -o -name '*.pyi' -o -path '*/cupti/*.a' \) -delete

FROM python AS runtime
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="sdst" \
      org.opencontainers.image.description="Ground sentences in video: extraction, training, prediction" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# The root file system may be read-only: caches go to the home folder, /tmp, results to /data. A pod's
# first process leaves its bytecode there for the others; in the image it would weigh 400 MB.
ENV HOME=/tmp PYTHONPATH=/opt/sdst PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=/tmp/bytecode
WORKDIR /data
RUN chown 1000:1000 /data

FROM scratch AS code
COPY pyproject.toml README.md LICENSE /opt/sdst/
COPY configs /opt/sdst/configs
COPY model /opt/sdst/model
COPY data_pipeline /opt/sdst/data_pipeline
COPY trainer /opt/sdst/trainer
COPY launch /opt/sdst/launch

# The packages come first: with other code only the last layer, some hundred kilobytes, is another.
FROM runtime AS environment-cuda
# Triton compiles its binding to the driver when the first kernel runs, and has no other way. That is
# one C file, for which the smallest compiler there is will do.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libc6-dev tcc \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt
COPY --from=builder /usr/include/python3.11 /usr/include/python3.11
COPY --from=builder /usr/include/x86_64-linux-gnu/python3.11 \
    /usr/include/x86_64-linux-gnu/python3.11
ENV CC=/opt/sdst/launch/triton-cc.sh NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /opt/venv /opt/venv

# No init process and no shell: what is started is process 1 and gets the signals itself.
FROM environment-cuda AS cuda
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"
ENV SDST_REVISION="${REVISION}"
COPY --from=code /opt/sdst /opt/sdst
USER 1000:1000
CMD ["python", "-m", "launch.quickstart"]

FROM runtime AS environment-cpu
COPY --from=packages-cpu /opt/venv /opt/venv

FROM environment-cpu AS cpu
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"
ENV SDST_REVISION="${REVISION}"
COPY --from=code /opt/sdst /opt/sdst
USER 1000:1000
CMD ["python", "-m", "launch.quickstart"]
