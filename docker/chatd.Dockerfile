# chatd: one static binary, nothing else. Build from the repository's root:
#   COMMIT=$(git describe --always --dirty --abbrev=40 --exclude='*')
#   docker build --build-arg COMMIT=$COMMIT -f docker/chatd.Dockerfile -t chatvault/chatd .
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY protocol protocol
COPY chatd chatd
# What "chatd version" names: .git is not in here.
ARG COMMIT
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-X chatvault/protocol/cmdline.commit=$COMMIT" -o /out/chatd ./chatd

FROM scratch
# For issuers with a jwks-url.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/chatd /usr/bin/chatd
USER 65532:65532
ENTRYPOINT ["/usr/bin/chatd"]
CMD ["serve", "--config", "/etc/chatvault/chatd.yaml"]
