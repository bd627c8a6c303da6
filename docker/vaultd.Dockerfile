# vaultd on glibc, because a PKCS#11 module is a shared library. Build from the
# repository's root; without --target you get the image for a real HSM, into
# which you put the vendor's module:
#   COMMIT=$(git describe --always --dirty --abbrev=40 --exclude='*')
#   docker build --build-arg COMMIT=$COMMIT -f docker/vaultd.Dockerfile --target vaultd -t chatvault/vaultd .
#   docker build --build-arg COMMIT=$COMMIT -f docker/vaultd.Dockerfile --target dev -t chatvault/vaultd-dev .
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY protocol protocol
COPY vaultd vaultd
# What "vaultd version" names: .git is not in here.
ARG COMMIT
RUN CGO_ENABLED=1 go build -trimpath -ldflags "-X chatvault/protocol/cmdline.commit=$COMMIT" -o /out/vaultd ./vaultd

# With SoftHSM, whose keys are files: for trying out, never for anybody's backup.
FROM debian:bookworm-slim AS dev
RUN apt-get update \
	&& apt-get install -y --no-install-recommends openssl softhsm2 \
	&& rm -rf /var/lib/apt/lists/* \
	&& install -d -o 65532 -g 65532 -m 0700 /var/lib/vaultd /var/lib/chatvault /var/lib/chatvault/vault /var/lib/chatvault/relay /var/lib/chatvault/app
COPY --from=build /out/vaultd /usr/bin/vaultd
COPY docker/dev/provision.sh /usr/bin/provision
ENV SOFTHSM2_CONF=/var/lib/chatvault/vault/softhsm2.conf
USER 65532:65532
ENTRYPOINT ["/usr/bin/vaultd"]
CMD ["serve", "--config", "/etc/chatvault/vaultd.yaml"]

FROM debian:bookworm-slim AS vaultd
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/vaultd
COPY --from=build /out/vaultd /usr/bin/vaultd
USER 65532:65532
ENTRYPOINT ["/usr/bin/vaultd"]
CMD ["serve", "--config", "/etc/chatvault/vaultd.yaml"]
