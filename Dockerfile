# gridgate in two stages. The image brings no database: give it an external MongoDB (replica set or sharded cluster) in
# GRIDGATE_MONGODB_URI, and the keys in GRIDGATE_MASTER_KEY (or _FILE) and GRIDGATE_ADMIN_KEY when it runs, never when it
# is built. compose.yaml shows both together.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin gridgate

FROM debian:bookworm-slim
RUN groupadd --system --gid 10001 gridgate \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gridgate \
    && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /build/target/release/gridgate /usr/local/bin/gridgate
ENV GRIDGATE_LISTEN=0.0.0.0:8080 \
    GRIDGATE_DATA_DIR=/data
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["gridgate", "healthcheck"]
# SIGTERM drains: running transfers finish or are cut within the drain time.
STOPSIGNAL SIGTERM
ENTRYPOINT ["gridgate"]
CMD ["serve"]
