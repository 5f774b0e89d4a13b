# docker build --build-arg EXTRA=cuda13 -t wiretax .      cuda13, cuda12, rocm, or nothing for the CPU
# docker run --rm --gpus all --shm-size=1g -v "$PWD/results:/work/results" wiretax allreduce
# For EXTRA=rocm choose a BASE with ROCm 7, and give the container /dev/kfd and /dev/dri.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}
ARG EXTRA=
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python -m pip install --no-cache-dir ".${EXTRA:+[$EXTRA]}"
WORKDIR /work
ENTRYPOINT ["wiretax"]
CMD ["allreduce"]
