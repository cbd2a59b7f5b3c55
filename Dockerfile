# Two images from one file:  docker build --target web .   and   docker build --target worker .
# BASE has Python 3.11 or later as python3, and apt.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY deploy/requirements.lock ./
RUN python3 -m venv /opt/canalgate \
 && /opt/canalgate/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY common ./common
COPY gateway_web ./gateway_web
COPY gateway_worker ./gateway_worker
# The lock file holds hatchling too, so nothing is fetched that has no hash.
RUN /opt/canalgate/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && /opt/canalgate/bin/python -m compileall -q /opt/canalgate/lib

FROM ${BASE} AS runtime
# hadolint ignore=DL3008
RUN command -v tini || { apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*; }
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin canalgate
COPY --from=build /opt/canalgate /opt/canalgate
ENV PATH=/opt/canalgate/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CANALGATE_CONFIG=/etc/canalgate/canalgate.yaml \
    CANALGATE_LOGGING__FORMAT=json
COPY --chmod=0644 deploy/container/canalgate.yaml /etc/canalgate/canalgate.yaml
COPY --chmod=0755 deploy/container/healthy-web deploy/container/healthy-worker /usr/local/bin/
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["tini", "--"]

FROM runtime AS web
ENV CANALGATE_WEB__HOST=0.0.0.0 CANALGATE_WEB__PORT=8080
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["healthy-web"]
CMD ["canalgate", "web"]

FROM runtime AS worker
# tini passes signals to the worker alone (no -g): it drains, and ends its children itself.
ENV CANALGATE_WORKER__HEARTBEAT_FILE=/tmp/canalgate-heartbeat
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["healthy-worker"]
CMD ["canalgate", "worker"]
