package main

import (
	"fmt"
	"path/filepath"
	"time"

	"chatvault/protocol/cmdline"
	"chatvault/vaultd/internal/pki"
)

type pkiCmd struct {
	Out          string        `required:"" placeholder:"DIR" help:"Where the files go; none of them may be there yet."`
	ValidFor     time.Duration `default:"19800h" help:"How long the certificates are valid (default 825 days)."`
	DiscardCAKey bool          `name:"discard-ca-key" help:"Do not write the CA's key: nobody can ever certify another role."`
}

// Run makes the CA and one certificate per role.
func (c pkiCmd) Run(io cmdline.IO) error {
	if c.ValidFor <= 0 {
		return cmdline.Usagef("--valid-for: more than 0")
	}
	if err := pki.Generate(c.Out, pki.Options{Validity: c.ValidFor, DiscardCAKey: c.DiscardCAKey}); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(c.Out, name) }
	fmt.Fprintf(io.Err, "For vaultd: --tls-ca %s --tls-cert %s --tls-key %s\nFor chatd:  --vault-ca %s --vault-cert %s --vault-key %s\n",
		at(pki.CACert), at(pki.VaultdCert), at(pki.VaultdKey), at(pki.CACert), at(pki.ChatdCert), at(pki.ChatdKey))
	if !c.DiscardCAKey {
		fmt.Fprintf(io.Err, "Keep %s offline: whoever has it can join the uplink.\n", at(pki.CAKey))
	}
	return nil
}
