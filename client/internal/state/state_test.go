package state_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"chatvault/client/internal/state"
	"chatvault/protocol/opaque"
	"chatvault/protocol/vaultmsg"
)

func full() *state.State {
	m := vaultmsg.RegisterFinish{ID: vaultmsg.RegistrationID{1, 15: 2}, KSF: opaque.DefaultArgon2id}
	m.Record[3], m.Wrap[4] = 5, 6
	s := &state.State{Version: 1, Issuer: "app", Subject: "älice", Bundle: []byte("note\n"), MinEpoch: 9}
	at := s.At("fleet-1")
	at.Generation = 3
	at.Registered = &state.Registered{ID: m.ID[:], BodyHash: bytes.Repeat([]byte{7}, 32), Generation: 3, Receipt: []byte{1}}
	at.Pending = state.NewPending(m, 4, true)
	at.Blind = bytes.Repeat([]byte{0xab}, 32)
	return s
}

func TestRoundTrip(t *testing.T) {
	for _, s := range []*state.State{{Version: 1}, full()} {
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := state.Parse(b)
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%s: %+v, %v", b, got, err)
		}
	}
	m := full().At("fleet-1").Pending.Finish()
	if m.KSF != opaque.DefaultArgon2id || m.ID[15] != 2 || m.Record[3] != 5 || m.Wrap[4] != 6 {
		t.Errorf("the RegisterFinish changed: %+v", m.KSF)
	}
	if s, err := state.Parse(nil); err != nil || s.Version != state.Version || s.Subject != "" {
		t.Errorf("nothing stored: %+v, %v", s, err)
	}
}

func TestSecretsPrintRedacted(t *testing.T) {
	at := full().At("fleet-1")
	for _, text := range []string{fmt.Sprintf("%v %+v %x", *at, *at, at.Blind), fmt.Sprintf("%#v", at.Pending.Record)} {
		if strings.Contains(text, "abab") || strings.Contains(text, "171 171") || !strings.Contains(text, "[redacted]") {
			t.Error(text)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	b, err := full().Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	for name, bad := range map[string]string{
		"another version": strings.Replace(good, `"version":1`, `"version":2`, 1),
		"no version":      strings.Replace(good, `"version":1`, `"version":0`, 1),
		"unknown field":   strings.Replace(good, `"version":1`, `"version":1,"more":2`, 1),
		"cut":             good[:len(good)-1],
		"trailing":        good + "{}",
		"short blind":     strings.Replace(good, `"blind":"q6ur`, `"blind":"`, 1),
		"short id":        strings.Replace(good, `"id":"01`, `"id":"`, 1),
		"id in capitals":  strings.Replace(good, `"id":"01`, `"id":"0A`, 1),
		"short wrap":      strings.Replace(good, `"wrap":"AAAAAAYA`, `"wrap":"AAAA`, 1),
		"null fleet":      `{"version":1,"fleets":{"f":null}}`,
		"too large":       strings.Repeat(" ", 1<<20) + good,
	} {
		if bad == good {
			t.Fatalf("%s: the replacement found nothing", name)
		}
		if _, err := state.Parse([]byte(bad)); !errors.Is(err, state.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What parses encodes to something that parses to the same, and stays so.
func FuzzParse(f *testing.F) {
	b, err := full().Encode()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{nil, b, []byte(`{"version":1}`), []byte(`{"version":1,"fleets":{"f":{"blind":"AA=="}}}`), b[:len(b)/2]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := state.Parse(b)
		if err != nil {
			if !errors.Is(err, state.ErrFormat) {
				t.Fatalf("error %v is not ErrFormat", err)
			}
			return
		}
		for _, at := range s.Fleets {
			if at.Pending != nil {
				at.Pending.Finish() // must not panic
			}
		}
		once, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := state.Parse(once)
		if err != nil {
			t.Fatalf("what was encoded does not parse: %v", err)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s became %s, %v", once, twice, err)
		}
	})
}
