# The one binary, with python3 for trainers. tini reaps what trainers leave when the agent is PID 1.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist -p trainyard

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv tini \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/dist/trainyard /usr/local/bin/trainyard
ENTRYPOINT ["tini", "-g", "--", "trainyard"]
CMD ["--help"]
