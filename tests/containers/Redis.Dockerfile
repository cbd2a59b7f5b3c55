# Debian's Redis under the names that docker-compose.yml uses, for machines that reach no registry of images.
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* \
 && ln -s /usr/bin/redis-server /usr/local/bin/valkey-server && ln -s /usr/bin/redis-cli /usr/local/bin/valkey-cli \
 && install -d -o redis -g redis /data
WORKDIR /data
USER redis
