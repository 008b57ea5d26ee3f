# The command visionssm on CPUs, with training and export. Untested: written where no image could be built.
#   docker build -f docker/cpu.Dockerfile -t visionssm .
#   docker run --rm -v "$PWD:/work" visionssm train vmamba_nano_digits
FROM python:3.12-slim
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY . /src
RUN pip install --no-cache-dir "/src[train,export]" && rm -rf /src
RUN useradd --create-home user && mkdir /work && chown user /work
USER user
ENV NUMBA_CACHE_DIR=/home/user/.cache/numba
WORKDIR /work
ENTRYPOINT ["visionssm"]
