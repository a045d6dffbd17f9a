# ruo in containers: the server with TensorFlow (the default), the server with OpenVINO (lean), the client, and the client
# with the notebooks and the Kubernetes client, which measures.
#
#   docker build -t ruo-server:0.1.0 .
#   docker build -t ruo-server:0.1.0-openvino --target openvino .
#   docker build -t ruo-client:0.1.0 --target client .
#   docker build -t ruo-measure:0.1.0 --target measure .
#
#   docker run -p 8000:8000 -v "$PWD/store":/app/model:ro --cpus 2 --stop-timeout 75 ruo-server:0.1.0
#
# Where images or packages come from a mirror: --build-arg PYTHON_IMAGE=... --build-arg PIP_INDEX_URL=...
ARG PYTHON_IMAGE=python:3.11-slim

# The builders: a virtual environment each, without pip, and without what only compilers and tests need.
FROM ${PYTHON_IMAGE} AS builder
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python3 -m venv --without-pip /opt/venv

FROM builder AS client-builder
COPY constraints.txt pyproject.toml ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    >requirements.txt \
 && pip --python /opt/venv/bin/python install -c constraints.txt -r requirements.txt \
 && find /opt/venv -depth -type d -name tests -exec rm -r {} +

FROM client-builder AS measure-builder
COPY notebooks/requirements.txt notebooks.txt
COPY k8s/requirements.txt cluster.txt
RUN sed -i '/^jupyterlab/d' notebooks.txt \
 && pip --python /opt/venv/bin/python install -c constraints.txt -r notebooks.txt -r cluster.txt \
 && find /opt/venv -depth -type d -name tests -exec rm -r {} +

FROM builder AS openvino-builder
COPY constraints.txt server/requirements.txt ./
RUN sed -i 's/^tensorflow.*//' requirements.txt \
 && pip --python /opt/venv/bin/python install -c constraints.txt -r requirements.txt openvino scipy \
 && find /opt/venv -depth -type d -name tests -exec rm -r {} +

# TensorFlow brings its headers and a C++ parser, together 350 MB that no server reads.
FROM builder AS tensorflow-builder
COPY constraints.txt server/requirements.txt ./
RUN pip --python /opt/venv/bin/python install -c constraints.txt -r requirements.txt \
 && rm -r /opt/venv/lib/python3*/site-packages/tensorflow/include /opt/venv/lib/python3*/site-packages/clang \
 && find /opt/venv -depth -type d -name tests -exec rm -r {} +

# All that a server imports of ruo; the rest is the client.
FROM builder AS server-files
COPY ruo/__init__.py ruo/errors.py ruo/machine.py ruo/provenance.py ruo/
COPY ruo/model ruo/model
COPY ruo/wire ruo/wire
COPY server server

# What the images have in common. The user is a number, since only that tells Kubernetes that it is not root.
FROM ${PYTHON_IMAGE} AS base
RUN groupadd --gid 10001 ruo \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ruo \
 && mkdir -p /app/model
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001
LABEL org.opencontainers.image.licenses=MIT

FROM base AS client
COPY --from=client-builder /opt/venv /opt/venv
COPY ruo ruo
CMD ["python3", "-m", "ruo", "--help"]
ARG VERSION=dev
LABEL org.opencontainers.image.title=ruo-client \
      org.opencontainers.image.description="Scores a table with a model that is served over HTTP" \
      org.opencontainers.image.version=${VERSION}

FROM base AS measure
COPY --from=measure-builder /opt/venv /opt/venv
COPY ruo ruo
COPY notebooks notebooks
CMD ["python3", "-m", "ruo", "--help"]
ARG VERSION=dev
LABEL org.opencontainers.image.title=ruo-measure \
      org.opencontainers.image.description="Runs ruo's notebooks against servers whose number it changes" \
      org.opencontainers.image.version=${VERSION}

# Gunicorn is process 1: it passes signals on, waits for requests under way, and takes in every child that ends.
FROM base AS server
EXPOSE 8000
# The C library (glibc, mallopt(3)) has one heap for all threads, since only one computes, and holds on to what is freed
# between one call of the model and the next; the server itself has it give memory back after a swap of models.
ENV MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TOP_PAD_=67108864 MALLOC_TRIM_THRESHOLD_=1073741824
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python3", "-c", "\
import http.client, os; \
server = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT', 8000)), timeout=4); \
server.request('GET', '/v2/health/ready'); \
raise SystemExit(server.getresponse().status != 200)"]
CMD ["gunicorn", "-c", "server/gunicorn.conf.py", "server:app"]
LABEL org.opencontainers.image.title=ruo-server \
      org.opencontainers.image.description="Serves a Keras model over HTTP"

FROM server AS openvino
ENV KERAS_BACKEND=openvino
COPY --from=openvino-builder /opt/venv /opt/venv
COPY --from=server-files /build /app
ARG VERSION=dev
LABEL org.opencontainers.image.version=${VERSION}

FROM server AS tensorflow
COPY --from=tensorflow-builder /opt/venv /opt/venv
COPY --from=server-files /build /app
ARG VERSION=dev
LABEL org.opencontainers.image.version=${VERSION}
