package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chatvault/protocol/cmdline"
	"chatvault/protocol/fleet"
	"chatvault/protocol/oprf"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/p11"
)

// tokenFlags name an HSM token.
type tokenFlags struct {
	HSM     string `name:"hsm" required:"" placeholder:"URI" help:"Token as an RFC 7512 URI, such as 'pkcs11:token=vault?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/vaultd/pin'."`
	PINFile string `name:"pin-file" placeholder:"FILE" help:"File with the user PIN, mode 0600, if the URI has no pin-source. A PIN is never taken from a flag or the environment."`
}

func (t tokenFlags) config() p11.Config { return p11.Config{URI: t.HSM, PINFile: t.PINFile} }

// bundleFlags say what a bundle says beside the keys.
type bundleFlags struct {
	Fleet    string        `required:"" help:"Fleet id: 1 to 64 of a-z 0-9 . -"`
	Epoch    uint32        `default:"1" help:"Number of the bundle; each new one is higher."`
	ValidFor time.Duration `default:"2160h" help:"How long clients accept the bundle (default 90 days)."`
}

// explain turns the HSM's errors into exit codes and advice.
func explain(err error) error {
	switch {
	// A wrong PIN is not to be tried again by a supervisor that restarts on 1: three
	// or ten tries lock a real token.
	case errors.Is(err, hsm.ErrConfig), errors.Is(err, hsm.ErrPIN):
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	case errors.Is(err, hsm.ErrNoKey):
		return fmt.Errorf("%w: run \"vaultd init\" first", err)
	}
	return err
}

type initCmd struct {
	cmdline.ConfigFlag
	tokenFlags
	bundleFlags
}

// Run makes the keys and prints the bundle to be signed.
func (c initCmd) Run(ctx context.Context, io cmdline.IO) error {
	if !fleet.ValidID(c.Fleet) {
		return cmdline.Usagef("--fleet: an id has 1 to 64 of a-z 0-9 . -")
	}
	report, err := p11.Probe(ctx, c.config())
	if err != nil {
		return explain(err)
	}
	if !report.Fit() {
		fmt.Fprint(io.Err, report)
		return fmt.Errorf("%w: nothing was made", hsm.ErrUnfit)
	}
	if err := p11.Provision(ctx, c.config()); err != nil {
		return explain(err)
	}
	fmt.Fprintf(io.Err, "The fleet's %d keys are in the HSM. Back the token up now, and clone it into the fleet's other\n"+
		"HSMs: without them no backup key ever comes back. Then have these public keys signed\n"+
		"by both signers (\"vaultd fleet sign\"):\n", len(hsm.Keys()))
	return printKeys(ctx, io, c.tokenFlags, c.bundleFlags)
}

type keysCmd struct {
	cmdline.ConfigFlag
	tokenFlags
	bundleFlags
}

// Run prints the bundle to be signed.
func (c keysCmd) Run(ctx context.Context, io cmdline.IO) error {
	return printKeys(ctx, io, c.tokenFlags, c.bundleFlags)
}

func printKeys(ctx context.Context, io cmdline.IO, t tokenFlags, f bundleFlags) error {
	module, err := p11.Open(ctx, t.config())
	if err != nil {
		return explain(err)
	}
	defer module.Close()
	keys, err := publicKeys(ctx, module, f.Fleet)
	if err != nil {
		return explain(err)
	}
	b := fleet.Bundle{Keys: keys, Epoch: f.Epoch, NotAfter: time.Now().Add(f.ValidFor).UTC().Truncate(time.Second)}
	text := b.Text()
	if _, err := fleet.Parse(text); err != nil {
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	_, err = fmt.Fprint(io.Out, text)
	return err
}

// publicKeys asks an HSM for what a fleet bundle carries.
func publicKeys(ctx context.Context, m hsm.Signer, id string) (k fleet.Keys, err error) {
	k.Fleet = id
	for key, dst := range map[hsm.Key][]byte{hsm.Noise: k.Noise[:], hsm.Receipt: k.Receipt[:]} {
		public, err := m.Public(ctx, key)
		if err != nil {
			return k, fmt.Errorf("public key %s: %w", key, err)
		}
		copy(dst, public)
	}
	public, err := m.Public(ctx, hsm.Opaque)
	if err != nil {
		return k, fmt.Errorf("public key %s: %w", hsm.Opaque, err)
	}
	compressed, err := oprf.Compress(public)
	copy(k.OPAQUE[:], compressed)
	return k, err
}

type probeCmd struct {
	cmdline.ConfigFlag
	tokenFlags
	JSON bool `name:"json" help:"Print the report as JSON."`
}

// Run prints the report; exit code 1 when the module does not fit.
func (c probeCmd) Run(ctx context.Context, io cmdline.IO) error {
	report, err := p11.Probe(ctx, c.config())
	if err != nil {
		return explain(err)
	}
	if c.JSON {
		if err := printJSON(io.Out, report); err != nil {
			return err
		}
	} else {
		fmt.Fprint(io.Out, report)
	}
	if !report.Fit() {
		return hsm.ErrUnfit
	}
	return nil
}
