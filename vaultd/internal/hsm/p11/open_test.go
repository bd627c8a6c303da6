package p11

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/hsmtest"
	"chatvault/vaultd/internal/hsm/pkcs11uri"
)

// changed is the token's URI with something else in it.
func changed(t *testing.T, token hsmtest.Token, change func(*pkcs11uri.URI)) string {
	t.Helper()
	u, err := pkcs11uri.Parse(token.URI)
	if err != nil {
		t.Fatal(err)
	}
	change(&u)
	return u.String()
}

// each of the three ways into the package gives the same error.
func everyEntry(t *testing.T, config Config, want error, words ...string) {
	t.Helper()
	m, openErr := Open(t.Context(), config)
	if openErr == nil {
		m.Close()
	}
	_, probeErr := Probe(t.Context(), config)
	for name, err := range map[string]error{"Open": openErr, "Probe": probeErr, "Provision": Provision(t.Context(), config)} {
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
			continue
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v does not say %q", name, err, word)
			}
		}
	}
}

func TestConfigRefused(t *testing.T) {
	token := hsmtest.NewSoftHSM(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(open, []byte(token.PIN), 0o644); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*pkcs11uri.URI)) Config { return Config{URI: changed(t, token, change)} }
	t.Run("URI", func(t *testing.T) {
		everyEntry(t, Config{URI: "pkcs11:token=x"}, pkcs11uri.ErrSyntax, "module-path")
		everyEntry(t, Config{URI: "pkcs11:token=x"}, hsm.ErrConfig)
	})
	t.Run("module missing", func(t *testing.T) {
		c := with(func(u *pkcs11uri.URI) { u.ModulePath = "/nowhere/module.so" })
		everyEntry(t, c, hsm.ErrConfig, "/nowhere/module.so")
		everyEntry(t, c, fs.ErrNotExist)
	})
	t.Run("module is a directory", func(t *testing.T) {
		everyEntry(t, with(func(u *pkcs11uri.URI) { u.ModulePath = "/" }), hsm.ErrConfig, "not a file")
	})
	t.Run("module is no library", func(t *testing.T) {
		everyEntry(t, with(func(u *pkcs11uri.URI) { u.ModulePath = text }), hsm.ErrConfig, "cannot be loaded")
	})
	t.Run("no PIN file", func(t *testing.T) {
		everyEntry(t, with(func(u *pkcs11uri.URI) { u.PINSource = "" }), hsm.ErrConfig, "pin-source")
	})
	t.Run("two PIN files", func(t *testing.T) {
		everyEntry(t, Config{URI: token.URI, PINFile: token.PINFile}, hsm.ErrConfig, "two files")
	})
	t.Run("PIN file missing", func(t *testing.T) {
		everyEntry(t, with(func(u *pkcs11uri.URI) { u.PINSource = "/nowhere/pin" }), hsm.ErrConfig, "/nowhere/pin")
	})
	t.Run("PIN file that others may read", func(t *testing.T) {
		everyEntry(t, with(func(u *pkcs11uri.URI) { u.PINSource = open }), hsm.ErrConfig, "chmod 600")
	})
	t.Run("negative pool", func(t *testing.T) {
		everyEntry(t, Config{URI: token.URI, Sessions: -1}, hsm.ErrConfig, "negative")
	})
	t.Run("no such token", func(t *testing.T) {
		everyEntry(t, with(func(u *pkcs11uri.URI) { u.Serial = "0000" }), hsm.ErrUnavailable, "no token matches")
	})
	t.Run("model of another", func(t *testing.T) {
		everyEntry(t, with(func(u *pkcs11uri.URI) { u.Model = "Luna" }), hsm.ErrUnavailable, "no token matches")
	})
	t.Run("no keys", func(t *testing.T) {
		if _, err := Open(t.Context(), Config{URI: token.URI}); !errors.Is(err, hsm.ErrNoKey) || !strings.Contains(err.Error(), "init") {
			t.Errorf("%v, want ErrNoKey that says what to do", err)
		}
	})
}

func TestTwoTokensMatch(t *testing.T) {
	tokens := []hsmtest.Token{hsmtest.NewSoftHSM(t), hsmtest.NewSoftHSM(t)}
	s := &shim{tokenInfo: func(info *pkcs11.TokenInfo) { info.Label = "same" }}
	config := Config{URI: changed(t, tokens[0], func(u *pkcs11uri.URI) { u.Token = "same" })}
	if _, err := openShimmed(t, config, s); !errors.Is(err, hsm.ErrConfig) || !strings.Contains(err.Error(), "serial=") {
		t.Errorf("%v, want ErrConfig that says serial=", err)
	}
}

// A wrong PIN is tried once, whatever is asked afterwards.
func TestWrongPINIsTriedOnce(t *testing.T) {
	token := provisioned(t)
	wrong := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(wrong, []byte("WRONG-PIN-CANARY"), 0o600); err != nil {
		t.Fatal(err)
	}
	var logins atomic.Int64
	s := &shim{}
	count := func(call string, _ pkcs11.SessionHandle) error {
		if call == "Login" {
			logins.Add(1)
		}
		return nil
	}
	s.on(count)
	config := Config{URI: changed(t, token, func(u *pkcs11uri.URI) { u.PINSource = wrong })}
	_, err := openShimmed(t, config, s)
	if !errors.Is(err, hsm.ErrPIN) || logins.Load() != 1 {
		t.Errorf("%v after %d logins, want ErrPIN after one", err, logins.Load())
	}
	if strings.Contains(err.Error(), "CANARY") {
		t.Errorf("the error shows the PIN: %v", err)
	}
}

func TestPINChangedUnderTheModule(t *testing.T) {
	token := provisioned(t)
	var logins atomic.Int64
	s := &shim{}
	m, err := openShimmed(t, Config{URI: token.URI}, s)
	if err != nil {
		t.Fatal(err)
	}
	api := s.cryptoki.(*pkcs11.Ctx)
	slot, _, err := findSlot(api, m.uri)
	if err != nil {
		t.Fatal(err)
	}
	session, err := api.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := api.SetPIN(session, token.PIN, "another pin"); err != nil {
		t.Fatal(err)
	}
	if err := m.Healthy(t.Context()); err != nil {
		t.Errorf("still logged in: %v", err)
	}
	if _, err := m.lib.recover(generationOf(m)); err != nil {
		t.Fatal(err)
	}
	s.on(func(call string, _ pkcs11.SessionHandle) error {
		if call == "Login" {
			logins.Add(1)
		}
		return nil
	})
	for range 5 {
		if err := m.Healthy(t.Context()); !errors.Is(err, hsm.ErrPIN) {
			t.Errorf("%v, want ErrPIN", err)
		}
	}
	if logins.Load() != 1 {
		t.Errorf("%d logins with a PIN that was refused", logins.Load())
	}
}

// The last try before the token locks is left to people.
func TestPINFlags(t *testing.T) {
	token := hsmtest.NewSoftHSM(t)
	for name, flag := range map[string]uint{
		"final try": pkcs11.CKF_USER_PIN_FINAL_TRY, "locked": pkcs11.CKF_USER_PIN_LOCKED,
	} {
		t.Run(name, func(t *testing.T) {
			s := &shim{tokenInfo: func(info *pkcs11.TokenInfo) { info.Flags |= flag }}
			s.on(func(call string, _ pkcs11.SessionHandle) error {
				if call == "Login" {
					t.Error("the PIN was tried")
				}
				return nil
			})
			if _, err := openShimmed(t, Config{URI: token.URI}, s); !errors.Is(err, hsm.ErrPIN) {
				t.Errorf("%v, want ErrPIN", err)
			}
		})
	}
}

// A module that lacks a mechanism is unfit, and is told which.
func TestUnfitModule(t *testing.T) {
	token := provisioned(t)
	for call, missing := range map[string]string{
		"GenerateKey":       "wrapping key",
		"GenerateKeyPair":   "P-256 keys",
		"WrapKey":           "AES key wrap",
		"UnwrapKey":         "evaluation",
		"DeriveKey":         "static key agreement",
		"EncryptInit":       "AES-GCM",
		"DecryptInit":       "AES-GCM",
		"SignInit":          "HMAC",
		"Sign":              "ECDSA",
		"DestroyObject":     "destroyed",
		"GetAttributeValue": "static key agreement",
	} {
		for _, code := range []uint{pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_GENERAL_ERROR} {
			s := &shim{}
			s.on(func(c string, _ pkcs11.SessionHandle) error {
				if c == call {
					return pkcs11.Error(code)
				}
				return nil
			})
			_, err := openShimmed(t, Config{URI: token.URI}, s)
			if !errors.Is(err, hsm.ErrUnfit) || !strings.Contains(err.Error(), missing) {
				t.Errorf("without %s (%v): %v, want ErrUnfit that names %q", call, pkcs11.Error(code), err, missing)
			}
			s.on(nil)
			if err := provisionThrough(t, token, s, call, code); !errors.Is(err, hsm.ErrUnfit) {
				t.Errorf("Provision without %s: %v, want ErrUnfit", call, err)
			}
		}
	}
}

func provisionThrough(t *testing.T, token hsmtest.Token, s *shim, call string, code uint) error {
	t.Helper()
	s.on(func(c string, _ pkcs11.SessionHandle) error {
		if c == call {
			return pkcs11.Error(code)
		}
		return nil
	})
	defer s.on(nil)
	return provision(t.Context(), settingsOf(t, Config{URI: token.URI}, s.through))
}

// A module like opencryptoki, which hands out unwrapped keys as extractable,
// whatever was asked: fit if it lets them be tightened, else unfit.
func TestModuleThatUnwrapsLoosely(t *testing.T) {
	loose := func() *shim {
		return &shim{
			generate: func(a attributes) attributes { return without(a, pkcs11.CKA_UNWRAP_TEMPLATE) },
			unwrap:   func(attributes) attributes { return unwrapTemplate(true) },
		}
	}
	token := hsmtest.NewSoftHSM(t)
	s := loose()
	settings := settingsOf(t, Config{URI: token.URI}, s.through)
	alone(t, settings.uri.ModulePath)
	if err := provision(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	t.Run("tightened", func(t *testing.T) {
		s := loose()
		tightened := 0
		m, err := openShimmed(t, Config{URI: token.URI}, s)
		if err != nil {
			t.Fatal(err)
		}
		s.on(func(call string, _ pkcs11.SessionHandle) error {
			if call == "SetAttributeValue" {
				tightened++
			}
			return nil
		})
		if err := hsmtest.Operations(t, m)[0].Run(t.Context()); err != nil {
			t.Error(err)
		}
		if tightened == 0 {
			t.Error("an unwrapped key was not tightened")
		}
	})
	t.Run("cannot be tightened", func(t *testing.T) {
		s := loose()
		s.on(func(call string, _ pkcs11.SessionHandle) error {
			if call == "SetAttributeValue" {
				return pkcs11.Error(pkcs11.CKR_ATTRIBUTE_READ_ONLY)
			}
			return nil
		})
		if _, err := openShimmed(t, Config{URI: token.URI}, s); !errors.Is(err, hsm.ErrUnfit) {
			t.Errorf("%v, want ErrUnfit", err)
		}
	})
	t.Run("stays loose", func(t *testing.T) {
		s := &pretender{shim: loose()}
		settings := settingsOf(t, Config{URI: token.URI}, s.through)
		alone(t, settings.uri.ModulePath)
		if _, err := open(t.Context(), settings); !errors.Is(err, hsm.ErrUnfit) {
			t.Errorf("%v, want ErrUnfit", err)
		}
	})
}

// A pretender says that it changed attributes, and did not.
type pretender struct{ *shim }

func (p *pretender) through(path string) (cryptoki, error) {
	_, err := p.shim.through(path)
	return p, err
}

func (p *pretender) SetAttributeValue(pkcs11.SessionHandle, pkcs11.ObjectHandle, []*pkcs11.Attribute) error {
	return nil
}

func without(a attributes, kind uint) attributes {
	var kept attributes
	for _, attribute := range a {
		if attribute.Type != kind {
			kept = append(kept, attribute)
		}
	}
	return kept
}
