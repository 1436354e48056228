# One image for every process; the argument says which: `services.sales`, `gateway`, `services.sales migrate`.
# BASE is any Debian-like image with Python 3.11 or newer and its venv module; both stages use the same, so
# that the environment built in the first runs in the second. Pin it by digest where releases are built.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Bytecode that is never held against its source: layers may change times, nothing changes files.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 UV_LINK_MODE=copy PYC_INVALIDATION_MODE=UNCHECKED_HASH
WORKDIR /build
COPY requirements/uv.lock requirements/gen.lock requirements/run.lock requirements/
RUN python3 -m venv uv \
    && uv/bin/python -m pip install --quiet --no-cache-dir --require-hashes -r requirements/uv.lock \
    && python3 -m venv --without-pip /app/venv \
    && uv/bin/uv pip sync --quiet --no-cache --no-build --require-hashes --compile-bytecode \
        --python /app/venv/bin/python requirements/run.lock \
    && python3 -m venv --without-pip generators \
    && uv/bin/uv pip sync --quiet --no-cache --no-build --require-hashes \
        --python generators/bin/python requirements/gen.lock

COPY tools/gen.py tools/gen.py
COPY protos protos
RUN generators/bin/python tools/gen.py

WORKDIR /app
COPY chassis chassis
COPY services services
COPY gateway gateway
COPY cli cli
COPY docs docs
COPY deploy/__init__.py deploy/topology.py deploy/
RUN cp -r /build/gen gen && find . -name '*.pyi' -not -path './venv/*' -delete \
    && venv/bin/python -m compileall -q --invalidation-mode unchecked-hash chassis services gateway cli deploy gen \
    && chmod -R a+rX,go-w /app

FROM ${BASE}
COPY --from=build /app /app
WORKDIR /app
# One heap for all threads of a process: few work at once, and each heap keeps what was freed in it.
ENV MALLOC_ARENA_MAX=1 \
    PATH=/app/venv/bin:$PATH \
    PYTHONPATH=/app:/app/gen \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAPPORT_CONTRACT=/app/gen/contract.binpb
LABEL org.opencontainers.image.title="Rapport" org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["python", "-m"]
