package command

import (
	"fmt"
	"io"
	"os"
	"time"

	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/fleet"
)

// issuerFlags make tickets as an app's backend would.
type issuerFlags struct {
	IssuerKey string        `placeholder:"FILE" group:"Tickets" help:"An issuer's private key, to make tickets with: PKCS #8 in PEM. Of a test bed."`
	Iss       string        `placeholder:"ISS" group:"Tickets" help:"The iss value, as chatd and vaultd have it configured."`
	Kid       string        `group:"Tickets" help:"Key id, for an issuer with a JWK set."`
	TTL       time.Duration `name:"ttl" default:"1h" group:"Tickets" help:"How long a ticket is good for, at most 1h (${default})."`
	Subjects  string        `placeholder:"PREFIX" group:"Tickets" help:"The accounts are PREFIX-1, PREFIX-2, … Default: a fresh random prefix."`
}

func (f issuerFlags) issuer(fleetID string) (*phones.Issuer, error) {
	if f.Iss == "" {
		return nil, cmdline.Usagef("--issuer-key needs --iss")
	}
	b, err := readBounded(f.IssuerKey, cmdline.MaxSecret)
	if err != nil {
		return nil, usage(err)
	}
	defer clear(b)
	key, err := phones.ParseIssuerKey(b)
	if err != nil {
		return nil, cmdline.Usagef("%s: %w", f.IssuerKey, err)
	}
	i := &phones.Issuer{Key: key, KeyID: f.Kid, Name: f.Iss, Fleet: fleetID, Lifetime: f.TTL, Prefix: f.Subjects}
	if i.Prefix == "" {
		i.Prefix = phones.RandomPrefix()
	}
	// What no verifier would take is found before anything is made.
	if _, err := i.Mint(i.Prefix, [32]byte{1}); err != nil {
		return nil, cmdline.Usagef("no verifier would take these tickets: %w", err)
	}
	return i, nil
}

// usage makes an error one of usage, with exit code 2.
func usage(err error) error { return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err} }

// readBounded reads a file of at most most bytes.
func readBounded(file string, most int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s: over %d bytes", file, most)
	}
	return b, err
}

func readPins(file string) (fleet.Pins, error) {
	b, err := readBounded(file, 1<<20)
	if err != nil {
		return fleet.Pins{}, usage(err)
	}
	pins, err := fleet.ParsePins(b)
	if err != nil {
		return pins, cmdline.Usagef("%s: %w", file, err)
	}
	return pins, nil
}

type ticketsCmd struct {
	issuerFlags
	Fleet string `placeholder:"FILE" help:"Pins of the fleet (JSON)."`
	Count int    `default:"1000" help:"How many phones (${default})."`
	Out   string `short:"o" required:"" placeholder:"FILE" help:"File for them, mode 0600: device keys and tickets, one JSON object a line."`
}

// Help implements kong.HelpProvider.
func (ticketsCmd) Help() string {
	return `For generators that shall not have the issuer's key. The tickets end after --ttl.`
}

// Run makes phones.
func (c ticketsCmd) Run(io cmdline.IO) error {
	if c.IssuerKey == "" || c.Iss == "" || c.Fleet == "" {
		return cmdline.Usagef("--issuer-key, --iss and --fleet are needed")
	}
	if c.Count < 1 || c.Count > 1_000_000 {
		return cmdline.Usagef("--count: 1 to 1000000")
	}
	pins, err := readPins(c.Fleet)
	if err != nil {
		return err
	}
	i, err := c.issuer(pins.Fleet)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = phones.Write(f, i, c.Count)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		fmt.Fprintf(io.Err, "wrote %d phones to %s, good for %v\n", c.Count, c.Out, c.TTL)
	}
	return err
}
