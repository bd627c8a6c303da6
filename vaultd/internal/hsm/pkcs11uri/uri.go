// Package pkcs11uri parses the part of RFC 7512 by which vaultd names a
// PKCS#11 module, a token in it, and the file with its PIN:
//
//	pkcs11:token=vault;serial=4ad3?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/vault/pin
//
// It is stricter than the RFC: attributes that vaultd would not honour are
// refused rather than ignored, because an ignored one may have named another
// token. A PIN inside the URI is refused, since URIs end up in process lists
// and logs.
package pkcs11uri

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrSyntax is what every refused URI returns, wrapped with the reason.
var ErrSyntax = errors.New("bad PKCS#11 URI")

// MaxLength is the longest URI accepted, in bytes.
const MaxLength = 4096

// URI names a module and a token. The zero value of a field means that the
// attribute is absent.
type URI struct {
	Token        string // token: label
	Manufacturer string // manufacturer: of the token
	Model        string // model: of the token
	Serial       string // serial: of the token
	Object       string // object: prefix of the labels of the keys

	ModulePath string // module-path: absolute path of the library
	PINSource  string // pin-source: absolute path of a file, without "file:"
}

type attribute struct {
	name  string
	field func(*URI) *string
}

var pathAttributes = []attribute{
	{"token", func(u *URI) *string { return &u.Token }},
	{"manufacturer", func(u *URI) *string { return &u.Manufacturer }},
	{"model", func(u *URI) *string { return &u.Model }},
	{"serial", func(u *URI) *string { return &u.Serial }},
	{"object", func(u *URI) *string { return &u.Object }},
}

var queryAttributes = []attribute{
	{"module-path", func(u *URI) *string { return &u.ModulePath }},
	{"pin-source", func(u *URI) *string { return &u.PINSource }},
}

// Parse reads a URI. A token must be named by label or serial number, and the
// module by its path; the PIN's file is optional. Errors do not repeat values,
// which may hold a PIN.
func Parse(s string) (URI, error) {
	var u URI
	if len(s) > MaxLength {
		return URI{}, fmt.Errorf("%w: longer than %d bytes", ErrSyntax, MaxLength)
	}
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return URI{}, fmt.Errorf("%w: does not begin with the scheme pkcs11", ErrSyntax)
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	if err := u.parse(path, ";", pathReserved, pathAttributes); err != nil {
		return URI{}, err
	}
	if hasQuery {
		if err := u.parse(query, "&", queryReserved, queryAttributes); err != nil {
			return URI{}, err
		}
	}
	if err := u.check(); err != nil {
		return URI{}, err
	}
	return u, nil
}

func (u *URI) parse(list, separator, reserved string, known []attribute) error {
	if list == "" {
		return nil
	}
	for part := range strings.SplitSeq(list, separator) {
		name, raw, ok := strings.Cut(part, "=")
		if !ok {
			return fmt.Errorf("%w: an attribute without =", ErrSyntax)
		}
		field := u.lookup(name, known)
		if field == nil {
			return unknown(name)
		}
		value, err := decode(raw, reserved)
		if err != nil {
			return fmt.Errorf("%w: %s: %s", ErrSyntax, name, err)
		}
		if name == "pin-source" {
			value = strings.TrimPrefix(value, "file:")
			value = strings.TrimPrefix(value, "//") // file:///path: an empty host
			if !strings.HasPrefix(value, "/") || strings.HasPrefix(value, "//") {
				return fmt.Errorf("%w: pin-source is not file: with an absolute path", ErrSyntax)
			}
		}
		if *field != "" {
			return fmt.Errorf("%w: %s stands twice", ErrSyntax, name)
		}
		*field = value
	}
	return nil
}

func (u *URI) lookup(name string, known []attribute) *string {
	for _, a := range known {
		if a.name == name {
			return a.field(u)
		}
	}
	return nil
}

// unknown repeats names of plain letters only: anything else may be a PIN.
func unknown(name string) error {
	switch {
	case name == "pin-value":
		return fmt.Errorf("%w: pin-value is not accepted; put the PIN into a file and name it by pin-source", ErrSyntax)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz-") != "" || len(name) > 30:
		return fmt.Errorf("%w: an unknown attribute", ErrSyntax)
	}
	return fmt.Errorf("%w: attribute %q is unknown or in the wrong part", ErrSyntax, name)
}

func (u *URI) check() error {
	switch {
	case u.Token == "" && u.Serial == "":
		return fmt.Errorf("%w: names no token; give token= or serial=", ErrSyntax)
	case u.ModulePath == "":
		return fmt.Errorf("%w: names no module; give ?module-path=", ErrSyntax)
	case !strings.HasPrefix(u.ModulePath, "/"):
		return fmt.Errorf("%w: module-path is not absolute", ErrSyntax)
	case len(u.String()) > MaxLength:
		return fmt.Errorf("%w: longer than %d bytes", ErrSyntax, MaxLength)
	}
	return nil
}

// What may stand unencoded beside letters, digits and -._~ (RFC 7512 §2.3).
const (
	unreserved    = "-._~"
	pathReserved  = ":[]@!$'()*+,=&"
	queryReserved = ":[]@!$'()*+,=/?|"
)

func decode(raw, reserved string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '%':
			if i+2 >= len(raw) {
				return "", errors.New("a cut percent-encoding")
			}
			hi, lo := unhex(raw[i+1]), unhex(raw[i+2])
			if hi < 0 || lo < 0 {
				return "", errors.New("a bad percent-encoding")
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		case plain(c, reserved):
			b.WriteByte(c)
		default:
			return "", fmt.Errorf("byte 0x%02x must be percent-encoded", c)
		}
	}
	value := b.String()
	switch {
	case value == "":
		return "", errors.New("empty")
	case !utf8.ValidString(value):
		return "", errors.New("not UTF-8")
	case strings.ContainsFunc(value, unicode.IsControl):
		return "", errors.New("holds a control character")
	}
	return value, nil
}

func plain(c byte, reserved string) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte(unreserved, c) >= 0 || strings.IndexByte(reserved, c) >= 0
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// String is the URI in one fixed form: attributes in the order of the struct,
// encoded only where they must be. Parse(u.String()) gives u again.
func (u URI) String() string {
	path := u.join(";", pathReserved, pathAttributes)
	if query := u.join("&", queryReserved, queryAttributes); query != "" {
		return "pkcs11:" + path + "?" + query
	}
	return "pkcs11:" + path
}

func (u URI) join(separator, reserved string, known []attribute) string {
	var parts []string
	for _, a := range known {
		value := *a.field(&u)
		if value == "" {
			continue
		}
		if a.name == "pin-source" {
			value = "file:" + value
		}
		parts = append(parts, a.name+"="+encode(value, reserved))
	}
	return strings.Join(parts, separator)
}

func encode(value, reserved string) string {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		if c := value[i]; plain(c, reserved) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
