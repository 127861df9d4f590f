# The headwater image:  docker build -t headwater .
#
#   docker run --rm headwater validate -c /etc/headwater/orders_stream.yml
#
# configs/ is in /etc/headwater; mount files of your own over it. docker-compose.yml shows a whole setup.

# The toolchain that the tests run with; Cargo.toml's rust-version or newer.
FROM rust:1.95-slim-bookworm AS build

# What scripts/setup.sh installs for building, and zlib, which librdkafka otherwise builds a copy of.
# Not pinned: Debian keeps no older versions on its mirrors, and a release changes by fixes only.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential libssl-dev pkg-config zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY db db
COPY configs configs
COPY src src

# The mounts keep what the dependencies cost, for every clone on the machine. Cargo trusts the files' times, so
# the roots are touched: what another clone built last is not taken for ours (as `make stamp` does).
ENV CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_STRIP=true
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin headwater \
    && cp target/release/headwater /usr/local/bin/headwater


FROM debian:bookworm-slim

# The shared libraries that the binary names (ldd), and the authorities that TLS trusts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgcc-s1 libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 headwater \
    && useradd --uid 10001 --gid headwater --home-dir /var/lib/headwater --no-create-home \
        --shell /usr/sbin/nologin headwater \
    && install -d -o headwater -g headwater -m 0750 /var/lib/headwater /datalake

COPY --from=build /usr/local/bin/headwater /usr/local/bin/headwater
COPY configs /etc/headwater
# Fails the build where a shared library is missing.
RUN headwater --version

# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /var/lib/headwater
# /datalake is where the files in configs/ put lake and ledgers. Mount a volume that outlives the container:
# the ledger says what has been landed.
VOLUME ["/var/lib/headwater", "/datalake"]

# Loopback, the default, would be the container's own: neither Prometheus nor a probe could reach it.
ENV HEADWATER__HTTP__LISTEN=0.0.0.0:9464
EXPOSE 9464

# Right for any file that is run: where to ask is the variable above. PostgreSQL and Kafka are waited for by the
# program itself, for 60 tries of 2 s (runtime.wait_attempts, runtime.wait_delay_ms), then exit code 75.
HEALTHCHECK --interval=15s --timeout=5s --start-period=150s --retries=3 \
    CMD ["headwater", "status", "-c", "/etc/headwater/orders_stream.yml"]

ENTRYPOINT ["headwater"]
CMD ["run", "-c", "/etc/headwater/orders_stream.yml"]
