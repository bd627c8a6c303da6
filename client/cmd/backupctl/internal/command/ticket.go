package command

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"chatvault/client/cmd/backupctl/internal/files"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/client/cmd/backupctl/internal/state"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/fleet"
	"chatvault/protocol/ticket"
)

type ticketCmd struct {
	Mint  ticketMintCmd  `cmd:"" help:"Mint a ticket, as an app's backend would."`
	Check ticketCheckCmd `cmd:"" help:"Say what is in a ticket, and what is wrong with it."`
}

type ticketMintCmd struct {
	IssuerKey string        `required:"" placeholder:"FILE" help:"The issuer's private key: PKCS #8 in PEM, P-256 or Ed25519."`
	NewKey    bool          `help:"Make the issuer's key first, and write its public half to FILE.pub: the key-file of chatd and vaultd."`
	Iss       string        `required:"" help:"The iss value, as chatd and vaultd have it configured."`
	Sub       string        `required:"" help:"The account."`
	FleetID   []string      `name:"fleet-id" placeholder:"ID" help:"The fleet, or two of them. Default: the one of --fleet."`
	Device    string        `placeholder:"THUMBPRINT" help:"Thumbprint of the device key. Default: the state's."`
	Kid       string        `help:"Key id, for an issuer with a JWK set."`
	TTL       time.Duration `name:"ttl" default:"10m" help:"How long it is good for, at most 1h."`
	Out       string        `short:"o" placeholder:"FILE" help:"Write it there, replacing the file at once, instead of to standard output."`
}

// Help implements kong.HelpProvider.
func (ticketMintCmd) Help() string {
	return `An app's backend mints tickets after its own login; this is the same for development.

	backupctl ticket mint --issuer-key dev.pem --new-key --iss dev --sub alice --fleet-id demo -o ticket.jwt
	backupctl ticket mint --issuer-key dev.pem --iss dev --sub alice --fleet pins.json --ttl 1h > ticket.jwt`
}

type ticketResult struct {
	report.Outcome
	Ticket  string    `json:"ticket,omitempty"` // unless it went to a file
	File    string    `json:"file,omitempty"`
	Device  string    `json:"device"`
	Expires time.Time `json:"expires"`
}

func (r *ticketResult) text(w io.Writer) {
	if r.Ticket != "" {
		fmt.Fprintln(w, r.Ticket)
	}
}

// Run mints a ticket.
func (c *ticketMintCmd) Run(s *session) error { return s.done(c.run(s)) }

func (c *ticketMintCmd) run(s *session) (result, error) {
	claims, err := c.claims(s)
	if err != nil {
		return nil, err
	}
	key, err := c.key(s)
	if err != nil {
		return nil, err
	}
	text, err := ticket.Mint(key, c.Kid, claims)
	if err != nil {
		return nil, cmdline.Usagef("no verifier would take this ticket: %w", err)
	}
	r := &ticketResult{Ticket: text, Device: claims.Device.String(), Expires: claims.Expires}
	if c.Out != "" {
		if err := files.Write(c.Out, []byte(text+"\n"), true); err != nil {
			return nil, fmt.Errorf("writing the ticket: %w", err)
		}
		r.Ticket, r.File = "", c.Out
		s.remark("Wrote %s, good until %s.", c.Out, clock(r.Expires))
	}
	return r, nil
}

func (c *ticketMintCmd) claims(s *session) (ticket.Claims, error) {
	now := s.now().UTC().Truncate(time.Second)
	claims := ticket.Claims{Issuer: c.Iss, Subject: c.Sub, Audience: c.FleetID, IssuedAt: now, Expires: now.Add(c.TTL)}
	if len(c.FleetID) == 0 {
		if s.Fleet == "" {
			return claims, cmdline.Usagef("say for which fleet: --fleet-id ID, or --fleet FILE")
		}
		pins, err := s.pins()
		if err != nil {
			return claims, err
		}
		claims.Audience = []string{pins.Fleet}
	}
	if c.Device != "" {
		device, err := ticket.ParseThumbprint(c.Device)
		if err != nil {
			return claims, cmdline.Usagef("--device: want the 43 characters that backupctl device show prints")
		}
		claims.Device = device
		return claims, nil
	}
	dir, err := s.dir()
	if err != nil {
		return claims, err
	}
	device, err := dir.Device()
	if err != nil {
		return claims, err
	}
	claims.Device = device.Thumbprint()
	return claims, nil
}

// key reads the issuer's key, or makes it.
func (c *ticketMintCmd) key(s *session) (crypto.Signer, error) {
	if c.NewKey {
		return c.makeKey(s)
	}
	b, err := readSmall(c.IssuerKey, cmdline.MaxSecret)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, cmdline.Usagef("%s: not a PKCS #8 private key in PEM; make one with --new-key", c.IssuerKey)
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, cmdline.Usagef("%s: not a PKCS #8 private key", c.IssuerKey)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, cmdline.Usagef("%s: the key cannot sign", c.IssuerKey)
	}
	return key, nil
}

func (c *ticketMintCmd) makeKey(s *session) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the issuer's key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the issuer's key: %w", err)
	}
	defer clear(private)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the issuer's public key: %w", err)
	}
	if err := files.Write(c.IssuerKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), false); err != nil {
		if errors.Is(err, files.ErrExists) {
			return nil, failure(report.Failed, "target_exists", "Leave out --new-key to use it.", "issuer's key: %w", err)
		}
		return nil, fmt.Errorf("writing the issuer's key: %w", err)
	}
	pub := c.IssuerKey + ".pub"
	if err := files.Write(pub, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), true); err != nil {
		return nil, fmt.Errorf("writing the issuer's public key: %w", err)
	}
	s.remark("Wrote %s (keep it secret) and %s.", c.IssuerKey, pub)
	return key, nil
}

type ticketCheckCmd struct {
	File      string `arg:"" placeholder:"FILE" help:"The ticket."`
	IssuerPub string `placeholder:"FILE" help:"The issuer's public key, PEM or JWK, to verify the signature too."`
}

// Help implements kong.HelpProvider.
func (ticketCheckCmd) Help() string {
	return `Prints what the ticket says, and every reason for which this device and fleet could not use it now. Exit code 3 if there is one. The fleet is compared if --fleet is given, the device if the state has a key, the signature with --issuer-pub only.

	backupctl ticket check ticket.jwt
	backupctl ticket check ticket.jwt --fleet pins.json --issuer-pub dev.pem.pub`
}

type ticketCheckResult struct {
	report.Outcome
	Issuer   string    `json:"issuer"`
	Subject  string    `json:"subject"`
	Fleets   []string  `json:"fleets"`
	Device   string    `json:"device"`
	Issued   time.Time `json:"issued"`
	Expires  time.Time `json:"expires"`
	Verified bool      `json:"signature_verified"`
}

func (r *ticketCheckResult) text(w io.Writer) {
	signature := "not looked at"
	if r.Verified {
		signature = "verified"
	}
	fmt.Fprintf(w, "account    %q of issuer %q\nfleet      %s\ndevice     %s\nissued     %s\nexpires    %s\nsignature  %s\nThe ticket is good.\n",
		r.Subject, r.Issuer, strings.Join(r.Fleets, ", "), r.Device, clock(r.Issued), clock(r.Expires), signature)
}

// Run checks a ticket.
func (c *ticketCheckCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *ticketCheckCmd) run(_ context.Context, s *session) (result, error) {
	text, err := readTicket(c.File)
	if err != nil {
		return nil, err
	}
	claims, reasons, err := s.ticketReasons(text)
	if err != nil {
		return nil, err
	}
	if c.IssuerPub != "" {
		if err := c.verify(text); errors.Is(err, ticket.ErrSignature) || errors.Is(err, ticket.ErrKey) || errors.Is(err, ticket.ErrAlgorithm) {
			reasons = append(reasons, err.Error())
		} else if err != nil {
			return nil, err
		}
	}
	if len(reasons) > 0 {
		return nil, failure(report.NotAuthorised, "not_authorised",
			"Get a fresh one from the app's login, minted for this device: backupctl device show", "%s", strings.Join(reasons, "; "))
	}
	return &ticketCheckResult{Issuer: claims.Issuer, Subject: claims.Subject, Fleets: claims.Audience, Device: claims.Device.String(),
		Issued: claims.IssuedAt, Expires: claims.Expires, Verified: c.IssuerPub != ""}, nil
}

// verify checks the signature under the issuer's public key. The other rules
// were applied before, with all their reasons.
func (c *ticketCheckCmd) verify(text string) error {
	claims, _, err := ticket.Inspect(text)
	if err != nil || claims.Issuer == "" || len(claims.Audience) == 0 {
		return nil // a reason already
	}
	v, err := ticket.NewVerifier([]ticket.IssuerConfig{{Name: "issuer", Issuers: []string{claims.Issuer}, KeyFile: c.IssuerPub}}, claims.Audience, ticket.Options{})
	if err != nil {
		return cmdline.Usagef("--issuer-pub: %w", err)
	}
	// The device key is not at hand for somebody else's ticket: Verify ends
	// behind the signature either way.
	_, err = v.Verify(context.Background(), text, nil, claims.IssuedAt)
	if errors.Is(err, ticket.ErrSignature) || errors.Is(err, ticket.ErrKey) || errors.Is(err, ticket.ErrAlgorithm) {
		return err
	}
	return nil
}

// ticketReasons lists why a ticket could not be used here and now.
func (s *session) ticketReasons(text string) (ticket.Claims, []string, error) {
	claims, header, err := ticket.Inspect(text)
	if err != nil {
		return claims, []string{err.Error()}, nil
	}
	var reasons []string
	add := func(err error) {
		if err != nil {
			reasons = append(reasons, err.Error())
		}
	}
	add(header.Check())
	var fleets []string
	if s.Fleet != "" {
		pins, err := s.pins()
		if err != nil {
			return claims, nil, err
		}
		fleets = []string{pins.Fleet}
	}
	err = claims.Check(s.now(), fleets)
	switch {
	case errors.Is(err, ticket.ErrExpired):
		reasons = append(reasons, fmt.Sprintf("%v, at %s, %s ago", err, clock(claims.Expires), s.now().Sub(claims.Expires).Round(time.Second)))
	case errors.Is(err, ticket.ErrAudience) && fleets != nil:
		reasons = append(reasons, fmt.Sprintf("%v: it names %q, this fleet is %q", err, claims.Audience, fleets[0]))
	default:
		add(err)
	}
	dir, err := s.dir()
	if err != nil {
		return claims, reasons, nil // no state to compare with
	}
	device, err := dir.Device()
	if errors.Is(err, state.ErrNoDevice) {
		return claims, reasons, nil
	}
	if err != nil {
		return claims, nil, err
	}
	if own := device.Thumbprint(); claims.Device != own && claims.Device != (ticket.Thumbprint{}) {
		reasons = append(reasons, fmt.Sprintf("ticket: cnf.jkt is %s, this device is %s", claims.Device, own))
	}
	return claims, reasons, nil
}

// readTicket reads a ticket's file. A ticket too long to be one is cut, and
// refused as malformed later.
func readTicket(path string) (string, error) {
	b, err := readSmall(path, 2*ticket.MaxSize)
	if err != nil {
		return "", fmt.Errorf("reading the ticket: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// pins reads --fleet.
func (s *session) pins() (fleet.Pins, error) {
	b, err := readSmall(s.Fleet, fleet.MaxSize)
	if err != nil {
		return fleet.Pins{}, fmt.Errorf("reading the fleet's pins: %w", err)
	}
	pins, err := fleet.ParsePins(b)
	if err != nil {
		return fleet.Pins{}, cmdline.Usagef("%s: %w", s.Fleet, err)
	}
	return pins, nil
}

// clock writes a time for people.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
