# One file for all: docker build -t wiretax .                                                          on the CPU
#   docker build --build-arg EXTRA=cuda13 -t wiretax .                                                 or cuda12
#   docker build --build-arg EXTRA=rocm --build-arg BASE=rocm/dev-ubuntu-24.04:7.2.4-complete -t wiretax .
# --build-arg DIGEST=sha256:... pins the base. docs/gpu.md says how to start it with the GPUs.
ARG BASE=python:3.12-slim-bookworm
ARG DIGEST=
FROM ${BASE}${DIGEST:+@${DIGEST}}
ARG EXTRA=
# An image without Python's venv gets it; the kernels of the CPU want a compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && { python3 -c "import ensurepip, venv" || \
  apt-get install -y --no-install-recommends python3-venv; } && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# In an environment of its own: a system's Python refuses packages.
RUN python3 -m venv /opt/wiretax && /opt/wiretax/bin/python -m pip install --no-cache-dir ".${EXTRA:+[$EXTRA]}"
ENV PATH=/opt/wiretax/bin:${PATH}
WORKDIR /work
ENTRYPOINT ["wiretax"]
CMD ["allreduce"]
