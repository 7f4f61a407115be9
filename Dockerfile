# The command and nothing else. Models and data are mounted:
#   docker build -t collimate .
#   docker run --rm -v "$PWD:/work" collimate align --model my-model --data pairs.jsonl --output_dir aligned
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin collimate

FROM debian:bookworm-slim
COPY --from=build /source/target/release/collimate /usr/local/bin/collimate
WORKDIR /work
ENTRYPOINT ["collimate"]
