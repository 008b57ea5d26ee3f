# The command visionssm on NVIDIA GPUs. Untested: written where no image could be built.
#   docker build -f docker/cuda.Dockerfile -t visionssm:cuda .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" visionssm:cuda train vmamba_nano_digits
# PyTorch's wheels bring CUDA; Triton needs a C compiler for its launchers.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir "/src[train,export]" && rm -rf /src
RUN useradd --create-home user && mkdir /work && chown user /work
USER user
ENV NUMBA_CACHE_DIR=/home/user/.cache/numba TRITON_CACHE_DIR=/home/user/.cache/triton
WORKDIR /work
ENTRYPOINT ["visionssm"]
