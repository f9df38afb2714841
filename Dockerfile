# CLOUDS in a container. `docker build --target cpu` and `docker build --target cuda`; see INSTALL.md.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS base
# Where the index has several builds of torch, such as one for CPUs alone, an option of pip selects one:
#   --build-arg PIP_OPTIONS="--extra-index-url ..."
ARG PIP_OPTIONS=""
WORKDIR /clouds
COPY requirements.txt pyproject.toml setup.py ./
# The packages are a layer of their own, which a change of the code does not rebuild. The option is several words.
# hadolint ignore=DL3042,SC2086
RUN pip install --no-cache-dir ${PIP_OPTIONS} --requirement requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --editable . --editable projects/minicity
# Data, weights and results are mounted into the folders of the same names.
ENV DETECTRON2_DATASETS=/clouds/datasets
ENTRYPOINT ["clouds"]
CMD ["--help"]

FROM base AS cpu

# torch from the package index brings CUDA's libraries; the host needs a driver and NVIDIA's container toolkit. Triton
# compiles the kernels of the GPU with gcc.
FROM base AS cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
