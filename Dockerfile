# docker build -t sar-reward-server .
# docker run --gpus all -p 127.0.0.1:5000:5000 sar-reward-server \
#     --model Qwen/Qwen3-1.7B-Base --host 0.0.0.0 --allow-anyone
#
# The base is plain Python: PyTorch's wheels contain CUDA, and the driver comes from the host. A CUDA
# base would hold the same gigabytes twice. BASE_IMAGE may be any Debian or Ubuntu with python3 3.11
# or newer and its venv module. The digest is that of Python 3.11.16's image for all architectures.
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${BASE_IMAGE} AS build
# The build of torch: cuda (13.0) or cpu. requirements/torch-${TORCH}.lock names its files.
ARG TORCH=cuda
# The index that torch-cpu.lock names. PyPI does not have the build without CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /source
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_DEPS=1
COPY requirements ./requirements/
# pip installs only files whose hash is in a lock file. It builds nothing, because no hash covers what
# a source distribution is built with. All of this is installed before the sources are copied, so that
# a change of ours does not download it again.
RUN pip install --require-hashes --only-binary=:all: -r "requirements/torch-${TORCH}.lock"
# hadolint ignore=DL3059
RUN pip install --require-hashes --only-binary=:all: -r requirements/server.lock
# scale: Ray too, for scorers on several GPUs or machines (docs/scaling.md). By default it is left out.
ARG EXTRA=
RUN if [ -n "${EXTRA}" ]; then \
    pip install --require-hashes --only-binary=:all: -r "requirements/${EXTRA}.lock"; fi
COPY . .
RUN pip wheel --no-index --no-build-isolation --wheel-dir /wheels .

# Grader processes use libseccomp2, which comes with apt.
FROM ${BASE_IMAGE}
# User id that the server runs as. Use your own id if you mount your own cache folder.
ARG UID=1000
RUN useradd --no-log-init --create-home --uid "${UID}" reward \
    && install --directory --owner=reward --group=reward /cache /cache/huggingface
COPY --from=build /opt/venv /opt/venv
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    /opt/venv/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
    && /opt/venv/bin/pip check
# The port is set here because the health check needs it too.
ENV PATH=/opt/venv/bin:$PATH \
    HF_HOME=/cache/huggingface \
    XDG_CACHE_HOME=/cache \
    REWARD_SERVER_PORT=5000
USER ${UID}
WORKDIR /home/reward
VOLUME /cache
EXPOSE 5000
# /healthz, not /readyz: a server that is still loading its model must not be killed.
# The ProxyHandler ignores the environment's proxies, which cannot reach this address.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['REWARD_SERVER_PORT'] + '/healthz', timeout=8)"]
ENTRYPOINT ["python", "-m", "reward_server"]
