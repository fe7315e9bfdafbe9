# The image: the program, the few libraries it is linked with, one user. No shell, no package
# manager, nothing to patch but glibc: 10 MB instead of the 75 of a slim Debian.
#
#   docker build -t pillion .
#   docker run --read-only -v "$PWD/pillion-config:/etc/pillion:ro" -p 8080:8080 pillion
#
# Mount the folder, not the file: a file mounted by itself never shows a reload.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# What `pillion --version` tells: --build-arg PILLION_COMMIT=$(git rev-parse --short=12 HEAD)
ARG PILLION_COMMIT
RUN cargo build --locked --release
RUN deploy/image/rootfs target/release/pillion /rootfs

FROM scratch
COPY --from=build /rootfs/ /
USER 65532:65532
# SIGTERM drains: give `docker stop` longer than the drain's deadline (30 s).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/pillion"]
CMD ["run", "--config", "/etc/pillion/pillion.yaml"]
