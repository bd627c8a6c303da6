package main

import (
	"encoding/json"
	"errors"
	"fmt"
	stdio "io"
	"os"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chatvault/protocol/cmdline"
	"chatvault/protocol/fleet"
)

type fleetCmd struct {
	Signer fleetSignerCmd `cmd:"" help:"Make a signer's key pair. Do it twice, on two machines, by two people."`
	Sign   fleetSignCmd   `cmd:"" help:"Add a signature to a bundle; the second one completes it."`
	Pins   fleetPinsCmd   `cmd:"" help:"Write the pins that clients start from (--fleet of backupctl)."`
	Check  fleetCheckCmd  `cmd:"" help:"Open a bundle as a client with these pins would."`
}

type fleetSignerCmd struct {
	Name string `arg:"" help:"The signer's name: printable ASCII without space and +, such as ops.example."`
	Out  string `required:"" placeholder:"FILE" help:"Where the private key goes (mode 0600, must not exist)."`
}

// Run writes the private key and prints the public one.
func (c fleetSignerCmd) Run(io cmdline.IO) error {
	skey, vkey, err := fleet.GenerateSigner(c.Name)
	if err != nil {
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	if err := writeNew(c.Out, append(skey.Bytes, '\n'), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(io.Err, "%s holds the private key: keep it off the vaults and off the other signer's machine.\nThe public key, for \"vaultd fleet pins\":\n", c.Out)
	_, err = fmt.Fprintln(io.Out, vkey)
	return err
}

type fleetSignCmd struct {
	Key    string `required:"" placeholder:"FILE" help:"The signer's private key."`
	Bundle string `arg:"" placeholder:"FILE" help:"What \"vaultd init\" or \"keys\" printed, or a bundle with the other signature."`
}

// Run prints the bundle with one more signature. The signer should read what is
// signed: the command shows it.
func (c fleetSignCmd) Run(io cmdline.IO) error {
	skey, err := cmdline.ReadSecretFile(c.Key)
	if err != nil {
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	signer, err := fleet.SigningKey{Bytes: skey}.Signer()
	if err != nil {
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	text, err := readFile(c.Bundle, fleet.MaxSize)
	if err != nil {
		return err
	}
	signed, err := sign(text, signer)
	if err != nil {
		return err
	}
	_, err = io.Out.Write(signed)
	return err
}

func sign(text []byte, signer note.Signer) ([]byte, error) {
	if b, err := fleet.Parse(string(text)); err == nil {
		return fleet.Sign(b, signer)
	}
	return fleet.AddSignature(text, signer)
}

type fleetPinsCmd struct {
	Fleet    string   `required:"" help:"Fleet id."`
	MinEpoch uint32   `default:"1" help:"The lowest bundle epoch that clients accept."`
	Signers  []string `arg:"" help:"The two signers' public keys, as \"vaultd fleet signer\" printed them."`
}

// Run prints the pins.
func (c fleetPinsCmd) Run(io cmdline.IO) error {
	if len(c.Signers) != 2 {
		return cmdline.Usagef("two signers' public keys are needed, not %d", len(c.Signers))
	}
	b, err := json.Marshal(fleet.Pins{Fleet: c.Fleet, MinEpoch: c.MinEpoch, Signers: [2]string(c.Signers)})
	if err != nil {
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	_, err = fmt.Fprintf(io.Out, "%s\n", b)
	return err
}

type fleetCheckCmd struct {
	Pins   string `required:"" placeholder:"FILE" help:"The pins."`
	Bundle string `arg:"" placeholder:"FILE" help:"The signed bundle."`
}

// Run opens the bundle, or says why a client would not.
func (c fleetCheckCmd) Run(io cmdline.IO) error {
	b, err := readFile(c.Pins, fleet.MaxSize)
	if err != nil {
		return err
	}
	pins, err := fleet.ParsePins(b)
	if err != nil {
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	if b, err = readFile(c.Bundle, fleet.MaxSize); err != nil {
		return err
	}
	bundle, err := pins.Open(b, time.Now())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(io.Out, "good: fleet %s, epoch %d, until %s, %d previous\n",
		bundle.Fleet, bundle.Epoch, bundle.NotAfter.Format(time.RFC3339), len(bundle.Previous))
	return err
}

// readFile reads a file of at most max bytes.
func readFile(name string, max int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	defer f.Close()
	b, err := stdio.ReadAll(stdio.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("%s: larger than %d bytes", name, max)
	}
	return b, err
}

// writeNew writes a file that must not exist yet.
func writeNew(name string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

func printJSON(w stdio.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
