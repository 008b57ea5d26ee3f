# The command visionssm on CPUs: training, export, endpoint and demo page. Untested: written where no image could be built.
#   docker build -f docker/cpu.Dockerfile -t visionssm .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" visionssm train vmamba_nano_digits
#   docker run --rm -v "$PWD:/work:ro" -p 127.0.0.1:8000:8000 visionssm serve model.onnx --host 0.0.0.0
FROM python:3.12-slim
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY . /src
RUN pip install --no-cache-dir "/src[train,export,demo]" && rm -rf /src
# Any user may run it: what is written beside the user's own files lies in /tmp.
ENV HOME=/tmp USER=user NUMBA_CACHE_DIR=/tmp/numba
USER 1000
WORKDIR /work
ENTRYPOINT ["visionssm"]
