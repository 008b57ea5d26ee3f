# The command visionssm on NVIDIA GPUs. Untested: written where no image could be built.
#   docker build -f docker/cuda.Dockerfile -t visionssm:cuda .
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/work" visionssm:cuda train vmamba_nano_digits
# PyTorch's wheels bring CUDA; Triton needs a C compiler for its launchers.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir "/src[train,export,demo]" && rm -rf /src
# Any user may run it: what is written beside the user's own files lies in /tmp.
ENV HOME=/tmp USER=user NUMBA_CACHE_DIR=/tmp/numba TRITON_CACHE_DIR=/tmp/triton
USER 1000
WORKDIR /work
ENTRYPOINT ["visionssm"]
