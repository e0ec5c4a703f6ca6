# docker build -t sar-reward-server .
# docker run --gpus all -p 127.0.0.1:5000:5000 sar-reward-server \
#     --model Qwen/Qwen3-1.7B-Base --host 0.0.0.0 --allow-anyone
#
# The base is plain Python: PyTorch's wheels contain CUDA, and the driver comes from the host. A CUDA
# base would hold the same gigabytes twice. BASE_IMAGE may be any Debian or Ubuntu with python3 3.11
# or newer and its venv module.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Decides which hardware torch supports: .../whl/cpu, .../whl/cu126, .../whl/cu130 and others.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
WORKDIR /source
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml constraints.txt ./
# torch comes from its own index and alone, so that pip cannot choose another build of it. Everything
# is installed before the sources are copied, so that a change of ours does not download it again.
RUN pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" -c constraints.txt torch
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > requirements.txt \
    && pip install --no-cache-dir -c constraints.txt -r requirements.txt
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# Grader processes use libseccomp2, which comes with apt.
FROM ${BASE_IMAGE}
# User id that the server runs as. Use your own id if you mount your own cache folder.
ARG UID=1000
RUN useradd --no-log-init --create-home --uid "${UID}" reward \
    && install --directory --owner=reward --group=reward /cache /cache/huggingface
COPY --from=build /opt/venv /opt/venv
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    /opt/venv/bin/pip install --no-cache-dir --no-deps /wheels/*.whl
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
