// Package pki makes and loads the certificates of the uplink between chatd and
// vaultd: a private CA, and a name in each certificate that says which of the two
// its holder is. They keep strangers off the uplink. They are not what a client
// trusts: that is the fleet bundle.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Role is the DNS name that a certificate of the private CA carries.
type Role string

// The two ends of an uplink.
const (
	Vaultd Role = "vaultd.chatvault.internal" // serves
	Chatd  Role = "chatd.chatvault.internal"  // dials
)

// domain is all that the CA may certify.
const domain = "chatvault.internal"

// The files that Generate writes, PEM. Keys are PKCS #8.
const (
	CACert     = "ca.crt"
	CAKey      = "ca.key"
	VaultdCert = "vaultd.crt"
	VaultdKey  = "vaultd.key"
	ChatdCert  = "chatd.crt"
	ChatdKey   = "chatd.key"
)

// DefaultValidity is 825 days.
const DefaultValidity = 825 * 24 * time.Hour

// backdate is how long before its making a certificate is valid, for clocks that
// are behind.
const backdate = 5 * time.Minute

// Options of Generate. The zero value is good.
type Options struct {
	// Validity of all three certificates. Default DefaultValidity. When it is
	// over, uplinks can no longer be made: generate anew, and restart both sides.
	Validity time.Duration
	// DiscardCAKey leaves ca.key unwritten: nobody can ever certify another role.
	// Without it, keep the file offline; neither program reads it.
	DiscardCAKey bool
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Generate makes a CA and one certificate for each role in dir, which it creates
// (mode 0700) if need be. Keys are ECDSA P-256, mode 0600. It overwrites nothing:
// if one of its files is there, it writes none, and the error wraps fs.ErrExist.
func Generate(dir string, o Options) error {
	if o.Validity == 0 {
		o.Validity = DefaultValidity
	}
	if o.Validity < 0 {
		return fmt.Errorf("generating certificates: validity of %v", o.Validity)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("generating certificates: %w", err)
	}
	if err := absent(dir); err != nil {
		return fmt.Errorf("generating certificates: %w", err)
	}
	files, err := generate(o)
	if err != nil {
		return fmt.Errorf("generating certificates: %w", err)
	}
	if err := writeAll(dir, files); err != nil {
		return fmt.Errorf("generating certificates: %w", err)
	}
	return nil
}

// writeAll writes all of the files, or none.
func writeAll(dir string, files []file) error {
	for i, f := range files {
		if err := f.write(dir); err != nil {
			for _, written := range files[:i] {
				os.Remove(filepath.Join(dir, written.name))
			}
			return err
		}
	}
	return nil
}

// absent says that none of our files is in dir.
func absent(dir string) error {
	for _, name := range []string{CACert, CAKey, VaultdCert, VaultdKey, ChatdCert, ChatdKey} {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s: %w", path, fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// file is one PEM file to be.
type file struct {
	name, kind string
	der        []byte
	mode       fs.FileMode
}

func (f file) write(dir string) error {
	out, err := os.OpenFile(filepath.Join(dir, f.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
	if err != nil {
		return err
	}
	err = pem.Encode(out, &pem.Block{Type: f.kind, Bytes: f.der})
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		os.Remove(out.Name()) // half a file
	}
	return err
}

func certFile(name string, der []byte) file { return file{name, "CERTIFICATE", der, 0o644} }

func keyFile(name string, key *ecdsa.PrivateKey) (file, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return file{name, "PRIVATE KEY", der, 0o600}, err
}

// generate makes everything in memory first, so that a failure leaves no half.
func generate(o Options) ([]file, error) {
	ca, err := newAuthority(o)
	if err != nil {
		return nil, err
	}
	files := []file{certFile(CACert, ca.cert.Raw)}
	if !o.DiscardCAKey {
		f, err := keyFile(CAKey, ca.key)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	for _, leaf := range []struct {
		role      Role
		use       x509.ExtKeyUsage
		cert, key string
	}{
		{Vaultd, x509.ExtKeyUsageServerAuth, VaultdCert, VaultdKey},
		{Chatd, x509.ExtKeyUsageClientAuth, ChatdCert, ChatdKey},
	} {
		der, key, err := ca.issue(leaf.role, leaf.use)
		if err != nil {
			return nil, err
		}
		f, err := keyFile(leaf.key, key)
		if err != nil {
			return nil, err
		}
		files = append(files, certFile(leaf.cert, der), f)
	}
	return files, nil
}

// authority is the CA while it is being used, once.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(o Options) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := o.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "chatvault private CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(o.Validity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
		// Should the key leak, it certifies no name of the outside world.
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{domain},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{key, cert}, nil
}

func (a *authority) issue(role Role, use x509.ExtKeyUsage) (der []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: string(role)},
		NotBefore:    a.cert.NotBefore,
		NotAfter:     a.cert.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{use},
		DNSNames:     []string{string(role)},
	}, a.cert, &key.PublicKey, a.key)
	return der, key, err
}

// serial is 127 random bits and not 0 (RFC 5280 §4.1.2.2).
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}
