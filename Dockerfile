# training: what torchrun, Slurm and Kubernetes run, with the library's own packages alone.
# pipeline: servers and workers. docs/containers.md shows both; compose.yaml uses the second.
FROM python:3.11-slim-bookworm AS training
# The compiler is for the views' compiled part, without which they are slower.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends g++ libjpeg62-turbo-dev \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 1000 moco
WORKDIR /src
# Packages first: an edit of the code does not install them again.
COPY pyproject.toml requirements.lock ./
COPY .ci/needs.py .ci/
RUN python .ci/needs.py > needs.txt \
  && pip install --no-cache-dir --constraint requirements.lock --requirement needs.txt
COPY . .
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --no-deps .
USER 1000
WORKDIR /project

FROM training AS pipeline
USER 0
# DVC and versions need git.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends git \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python .ci/needs.py pipeline team data transfer backbones export > needs.txt \
  && pip install --no-cache-dir --constraint requirements.lock --requirement needs.txt
USER 1000
WORKDIR /project
CMD ["prefect", "worker", "start", "--pool", "moco"]
