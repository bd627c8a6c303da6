// Package phones makes the devices and tickets that load is put on with.
package phones

import (
	"bufio"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"chatvault/protocol/ticket"
)

// Phone is a device with its account.
type Phone struct {
	Subject string
	Device  ticket.DeviceKey
	// Ticket brings a ticket, the way the SDK asks for one.
	Ticket func(ctx context.Context) (string, error)
}

// Source hands out phones. Safe for concurrent use.
type Source interface {
	// New is a phone of an account that was not handed out before.
	New() (Phone, error)
	// Again is a phone of the same account: a new device where the source can
	// make one, else the same with its memory lost.
	Again(Phone) (Phone, error)
	// Left is how many New can still bring; negative when there is no end.
	Left() int
}

// ErrUsedUp says that a file of phones has no more.
var ErrUsedUp = errors.New("no more phones in the file of tickets")

// Issuer mints tickets as an app's backend would: with a key of a test bed.
type Issuer struct {
	Key      crypto.Signer
	KeyID    string // kid, or empty
	Name     string // the iss value
	Fleet    string
	Lifetime time.Duration
	// Prefix begins every account's name; empty means a random one, so that
	// two runs never share accounts.
	Prefix string

	made atomic.Int64
}

// RandomPrefix is a name for the accounts of one run.
func RandomPrefix() string { return "load-" + strings.ToLower(rand.Text()[:8]) }

// New implements Source.
func (i *Issuer) New() (Phone, error) {
	return i.phone(i.Prefix + "-" + strconv.FormatInt(i.made.Add(1), 10))
}

// Again implements Source.
func (i *Issuer) Again(p Phone) (Phone, error) { return i.phone(p.Subject) }

// Left implements Source.
func (*Issuer) Left() int { return -1 }

func (i *Issuer) phone(sub string) (Phone, error) {
	device, err := ticket.NewDeviceKey()
	if err != nil {
		return Phone{}, err
	}
	jkt := device.Thumbprint()
	return Phone{Subject: sub, Device: device, Ticket: func(context.Context) (string, error) {
		return i.Mint(sub, jkt)
	}}, nil
}

// Mint makes one ticket.
func (i *Issuer) Mint(sub string, device ticket.Thumbprint) (string, error) {
	now := time.Now()
	return ticket.Mint(i.Key, i.KeyID, ticket.Claims{
		Issuer: i.Name, Subject: sub, Audience: []string{i.Fleet},
		IssuedAt: now, Expires: now.Add(i.Lifetime), Device: device,
	})
}

// ErrIssuerKey is returned for what is not an issuer's private key.
var ErrIssuerKey = errors.New("not a PKCS #8 private key in PEM that can sign tickets")

// ParseIssuerKey reads an issuer's private key: PKCS #8 in PEM.
func ParseIssuerKey(b []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, ErrIssuerKey
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, ErrIssuerKey
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, ErrIssuerKey
	}
	return key, nil
}

// line is a phone in a file of tickets: one JSON object a line.
type line struct {
	Subject string `json:"sub"`
	Device  string `json:"device"` // private key, PKCS #8 in PEM
	Ticket  string `json:"ticket"`
}

// Write writes count new phones of an issuer, one a line. Whoever reads the
// file can act as these devices until their tickets end.
func Write(w io.Writer, i *Issuer, count int) error {
	out := json.NewEncoder(w)
	for range count {
		p, err := i.New()
		if err != nil {
			return err
		}
		t, err := p.Ticket(context.Background())
		if err != nil {
			return err
		}
		key, err := p.Device.MarshalPEM()
		if err != nil {
			return err
		}
		if err := out.Encode(line{p.Subject, string(key), t}); err != nil {
			return err
		}
	}
	return nil
}

// maxPhones bounds what Read keeps.
const maxPhones = 1_000_000

// file is a Source of phones that were made before.
type file struct {
	phones []Phone
	next   atomic.Int64
}

// Read reads what Write wrote. The tickets are not verified here.
func Read(from io.Reader) (Source, error) {
	f := &file{}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 16<<10)
	for n := 1; lines.Scan(); n++ {
		if n > maxPhones {
			return nil, fmt.Errorf("more than %d phones", maxPhones)
		}
		p, err := parseLine(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		f.phones = append(f.phones, p)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(f.phones) == 0 {
		return nil, errors.New("no phones in it")
	}
	return f, nil
}

func parseLine(b []byte) (Phone, error) {
	var l line
	if json.Unmarshal(b, &l) != nil {
		return Phone{}, errors.New("not a JSON object with sub, device and ticket")
	}
	device, err := ticket.ParseDeviceKeyPEM([]byte(l.Device))
	if err != nil {
		return Phone{}, err
	}
	claims, _, err := ticket.Inspect(l.Ticket)
	if err != nil {
		return Phone{}, err
	}
	if claims.Device != device.Thumbprint() {
		return Phone{}, ticket.ErrDevice
	}
	if claims.Subject != l.Subject {
		return Phone{}, ticket.ErrSubject
	}
	t := l.Ticket
	return Phone{Subject: claims.Subject, Device: device, Ticket: func(context.Context) (string, error) { return t, nil }}, nil
}

// New implements Source.
func (f *file) New() (Phone, error) {
	n := f.next.Add(1) - 1
	if n >= int64(len(f.phones)) {
		return Phone{}, ErrUsedUp
	}
	return f.phones[n], nil
}

// Again implements Source.
func (*file) Again(p Phone) (Phone, error) { return p, nil }

// Left implements Source.
func (f *file) Left() int { return max(0, len(f.phones)-int(f.next.Load())) }

// Share returns the part of a source that one of several generators may use,
// so that no two of them use the same account. Nobody uses the whole any more.
func Share(s Source, index, of int) Source {
	switch s := s.(type) {
	case *Issuer:
		part := &Issuer{Key: s.Key, KeyID: s.KeyID, Name: s.Name, Fleet: s.Fleet, Lifetime: s.Lifetime}
		part.Prefix = s.Prefix + "-p" + strconv.Itoa(index+1)
		return part
	case *file:
		part := &file{}
		for i := index; i < len(s.phones); i += of {
			part.phones = append(part.phones, s.phones[i])
		}
		return part
	}
	return s
}
