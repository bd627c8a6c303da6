// Command vaultd is the Backup Key Vault: OPAQUE (RFC 9807) with every long-term
// secret in an HSM behind PKCS#11, and an attempt counter that fails closed.
package main

import (
	"context"
	"os"

	"chatvault/protocol/cmdline"
)

const description = `The Backup Key Vault: keeps wrapped backup keys behind ten password attempts.

A new fleet: "vaultd init" makes its keys in the HSM once; "vaultd fleet" has its public keys
signed by two signers; "vaultd pki" makes the certificates between chatd and vaultd; "vaultd
serve" runs. Operators' guide: docker/docs in the source tree.`

type grammar struct {
	Init    initCmd            `cmd:"" help:"Make the fleet's keys in the HSM, once, and print the public ones."`
	Probe   probeCmd           `cmd:"" help:"Say whether a PKCS#11 module fits, and what is missing."`
	Keys    keysCmd            `cmd:"" help:"Print the fleet's public keys as a bundle to be signed."`
	Fleet   fleetCmd           `cmd:"" help:"Sign, join and check fleet bundles (no HSM needed)."`
	PKI     pkiCmd             `cmd:"" name:"pki" help:"Make the private CA and certificates between chatd and vaultd."`
	Serve   serveCmd           `cmd:"" help:"Run a vault node."`
	Version cmdline.VersionCmd `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := cmdline.Signals(context.Background())
	defer stop()
	app := cmdline.App{Name: "vaultd", Description: description}
	os.Exit(app.Run(ctx, &grammar{}, os.Args[1:]))
}
