# Builds with the caches of BuildKit, runs as nobody in particular.
FROM rust:1-slim-bookworm AS build
WORKDIR /rollcall
COPY . .
# The binary is copied out within the same step, for a cache mount is gone afterwards.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/rollcall/target \
    cargo build --release --locked && cp target/release/rollcall /usr/local/bin/rollcall

FROM debian:bookworm-slim
# Certificates of authorities, for rediss:// and key sets fetched over https.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home rollcall
COPY --from=build /usr/local/bin/rollcall /usr/local/bin/rollcall
USER rollcall
ENV ROLLCALL__SERVER__LISTEN=0.0.0.0:8080
EXPOSE 8080
# Ready, that is: has met Redis and is not draining.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["rollcall", "health"]
ENTRYPOINT ["rollcall"]
CMD ["serve"]
