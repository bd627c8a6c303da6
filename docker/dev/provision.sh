#!/bin/sh
# Makes everything that the compose file's stack needs, once: a SoftHSM token
# with the fleet's keys, the signed bundle, the certificates, an issuer of
# tickets. For trying out: here one person on one machine plays the operator,
# both signers and the app, and the token's PINs pass through a command line.
# How it is done for real: docker/docs/operate.md.
set -eu
umask 077

fleet=dev
base=${CHATVAULT_DIR:-/var/lib/chatvault}
vault=$base/vault # vaultd alone sees it
relay=$base/relay # chatd alone sees it
app=$base/app     # what the app and its people have; the daemons never see it

if [ -e "$app/pins.json" ]; then
	echo "provision: done before"
	exit 0
fi
# What a provisioning that was cut short left behind is worth nothing.
mkdir -p "$vault" "$relay" "$app"
rm -rf "$vault"/* "$relay"/* "$app"/*
mkdir "$vault/tokens"

# The token.
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
export SOFTHSM2_CONF="$vault/softhsm2.conf"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$vault/tokens" >"$SOFTHSM2_CONF"
random >"$vault/pin"
random >"$app/so-pin"
softhsm2-util --init-token --free --label vault --pin "$(cat "$vault/pin")" --so-pin "$(cat "$app/so-pin")" >/dev/null

# The fleet's keys and their bundle, signed twice.
module=${SOFTHSM2_MODULE:-/usr/lib/softhsm/libsofthsm2.so}
vaultd init --fleet "$fleet" --hsm "pkcs11:token=vault?module-path=$module" --pin-file "$vault/pin" >"$app/bundle.0"
vaultd fleet signer first.dev --out "$app/first.key" >"$app/first.pub"
vaultd fleet signer second.dev --out "$app/second.key" >"$app/second.pub"
vaultd fleet sign --key "$app/first.key" "$app/bundle.0" >"$app/bundle.1"
vaultd fleet sign --key "$app/second.key" "$app/bundle.1" >"$relay/bundle"
vaultd fleet pins --fleet "$fleet" "$(cat "$app/first.pub")" "$(cat "$app/second.pub")" >"$app/pins.new"

# The certificates between chatd and vaultd.
vaultd pki --discard-ca-key --out "$base/vault/pki"
mkdir -p "$relay/pki"
cp "$vault/pki/ca.crt" "$relay/pki/"
mv "$vault/pki/chatd.crt" "$vault/pki/chatd.key" "$relay/pki/"

# The issuer of tickets: the app keeps the private key.
openssl genpkey -algorithm ED25519 -out "$app/issuer.key"
openssl pkey -in "$app/issuer.key" -pubout -out "$relay/issuer.pem"
cp "$relay/issuer.pem" "$vault/issuer.pem"

mv "$app/pins.new" "$app/pins.json" # last: everything is there
echo "provision: done"
