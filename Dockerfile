# Gearshift for serving: Python, ONNX Runtime, Ray Serve and the demo families. What is inside, by size, and how to run
# it: docs/image.md. `make image` builds it with whichever of docker, podman and buildah is there.

# A tag of one Python on one Debian. For a build that can be repeated to the byte, pass it with its digest:
# --build-arg BASE=docker.io/library/python:3.11.14-slim-bookworm@sha256:...
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm

# ---- build: everything that is needed once ---------------------------------------------------------------------------
FROM ${BASE} AS build
# serve: the server. cloud: with the clients of object stores. loadtest: with locust.
ARG LOCK=serve
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Only wheels, only those whose hashes the lock names: nothing is compiled, nothing runs at installation.
COPY requirements/build.lock requirements/${LOCK}.lock requirements/
RUN python -m venv /tools \
    && /tools/bin/python -m pip install -q --no-cache-dir --require-hashes --only-binary :all: -r requirements/build.lock \
    && python -m pip install -q --no-cache-dir --prefix /dependencies --ignore-installed --no-compile --no-deps \
        --require-hashes --only-binary :all: -r requirements/${LOCK}.lock
# What no Python server uses: Ray's Java workers and C++ interface, and the packages' own test suites and headers.
# The bytecode is made here, because nothing can be written later; it is not checked against the sources at import,
# so that it does not matter what becomes of their times.
RUN rm -rf /dependencies/lib/python3.*/site-packages/ray/jars /dependencies/lib/python3.*/site-packages/ray/cpp \
    && find /dependencies/lib -depth -type d \( -name tests -o -path '*/numpy/_core/include' \) -exec rm -rf {} + \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /dependencies -p /usr/local /dependencies/lib

COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY serving serving
COPY deployments deployments
COPY loadtests loadtests
RUN /tools/bin/python -m hatchling build -t wheel -d /dist \
    && python -m pip install -q --no-cache-dir --prefix /application --no-compile --no-deps --no-index /dist/*.whl \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /application -p /usr/local /application/lib

# ---- the image -------------------------------------------------------------------------------------------------------
FROM ${BASE}

# Versions are not pinned: Debian keeps one version of a package, the one with the security fixes.
# bash and grep come with the base; with wget they are what KubeRay's own probes call.
# Python's installer goes, and with it the way to add code. No file may give its caller another user's rights.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini wget \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf/*-old /var/log/* ~/.cache \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/site-packages/* \
        /usr/local/bin/idle* /usr/local/lib/python3.*/idlelib \
    && find /usr/local/lib -depth -type d \( -name test -o -name tests \) -exec rm -rf {} + \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/local/lib \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && groupadd --gid 10001 gearshift \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/gearshift --no-create-home --no-log-init \
        --shell /usr/sbin/nologin gearshift \
    && install --directory --mode 0750 --owner 10001 --group 10001 /var/lib/gearshift

COPY --from=build /dependencies /usr/local
COPY --from=build /application /usr/local

# One thread a library: the server sizes its own pools from the cores its cgroup allows, which these do not look at.
# In a container, loopback would be reachable for nobody; who may connect is decided by what is published.
ENV HOME=/var/lib/gearshift \
    GEARSHIFT_SERVER__HOST=0.0.0.0 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    ORT_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# Everything that is written: measured profiles below HOME, worth keeping; sockets, Ray's session and logs below /tmp.
VOLUME ["/var/lib/gearshift"]
WORKDIR /var/lib/gearshift
USER 10001:10001
# Inference over HTTP, over gRPC, and the Prometheus page.
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM

# A first start measures the models before it is ready.
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["sh", "-c", "exec wget -q --no-check-certificate -O /dev/null http${GEARSHIFT_SERVER__TLS_CERTFILE:+s}://127.0.0.1:${GEARSHIFT_SERVER__HTTP_PORT:-8000}/v2/health/ready"]

# tini reaps what a killed replica leaves, and hands SIGTERM to the server alone, which then drains.
ENTRYPOINT ["/usr/bin/tini", "--", "gearshift"]
CMD ["serve"]

# Last, because they change with every commit.
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Gearshift" \
    org.opencontainers.image.description="A model-serving gateway that answers with the most accurate compressed variant your budget allows." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"
