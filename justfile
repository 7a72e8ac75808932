# One verb a line; `just check` is what CI runs.
default:
    @just --list

# Format, lints, docs, dependencies, tests, the demonstration.
check:
    bash .ci/run

# A real model trained by a cluster on this machine.
demo *arguments:
    cargo demo -- {{arguments}}

# Everything that needs no large download.
test:
    cargo test

# Figures for docs/performance.md.
bench:
    cargo build --release --locked -p trainyard -p tests
    target/release/bench all

# What is shipped: target/dist/trainyard.
dist:
    cargo build --locked --profile dist -p trainyard
