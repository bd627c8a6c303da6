package noisenk

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"testing"
)

func TestSealNeverReusesASequenceNumber(t *testing.T) {
	a, b := sessions(t)
	mustPanic(t, "sequence number 0", func() { a.Seal(sid, 0, nil) })
	first := a.Seal(sid, 5, []byte("one"))
	mustPanic(t, "another plaintext under 5", func() { a.Seal(sid, 5, []byte("two")) })
	mustPanic(t, "the same plaintext under 5", func() { a.Seal(sid, 5, []byte("one")) })
	mustPanic(t, "a lower number", func() { a.Seal(sid, 4, []byte("two")) })
	mustPanic(t, "another session id under 5", func() { a.Seal(bytes.Repeat([]byte{8}, SessionIDSize), 5, []byte("one")) })
	for range 2 { // the same bytes may come again
		if got, err := b.Open(sid, 5, first); err != nil || string(got) != "one" {
			t.Errorf("%q, %v", got, err)
		}
	}
	last := a.Seal(sid, math.MaxUint32, nil)
	if _, err := b.Open(sid, math.MaxUint32, last); err != nil {
		t.Error(err)
	}
	mustPanic(t, "after the last number", func() { a.Seal(sid, 0, nil) })
	mustPanic(t, "a short session id", func() { b.Seal(sid[1:], 1, nil) })
}

func TestParallelSealsUnderOneNumber(t *testing.T) {
	a, _ := sessions(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	sealed := 0
	for range 16 {
		wg.Go(func() {
			defer func() { recover() }()
			a.Seal(sid, 1, []byte("x"))
			mu.Lock()
			defer mu.Unlock()
			sealed++
		})
	}
	wg.Wait()
	if sealed != 1 {
		t.Errorf("%d ciphertexts under one sequence number", sealed)
	}
}

func TestOpenRefuses(t *testing.T) {
	a, b := sessions(t)
	_, stranger := sessions(t)
	msg := a.Seal(sid, 2, []byte("request"))
	otherID := bytes.Clone(sid)
	otherID[19] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"reflected":        func() ([]byte, error) { return a.Open(sid, 2, msg) },
		"earlier number":   func() ([]byte, error) { return b.Open(sid, 1, msg) },
		"later number":     func() ([]byte, error) { return b.Open(sid, 3, msg) },
		"number 0":         func() ([]byte, error) { return b.Open(sid, 0, msg) },
		"other session id": func() ([]byte, error) { return b.Open(otherID, 2, msg) },
		"no session id":    func() ([]byte, error) { return b.Open(nil, 2, msg) },
		"long session id":  func() ([]byte, error) { return b.Open(append(bytes.Clone(sid), 0), 2, msg) },
		"other session":    func() ([]byte, error) { return stranger.Open(sid, 2, msg) },
		"empty":            func() ([]byte, error) { return b.Open(sid, 2, nil) },
		"truncated":        func() ([]byte, error) { return b.Open(sid, 2, msg[:len(msg)-1]) },
		"longer":           func() ([]byte, error) { return b.Open(sid, 2, append(bytes.Clone(msg), 0)) },
	} {
		if got, err := open(); !errors.Is(err, ErrDecrypt) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for n := range msg {
		bad := bytes.Clone(msg)
		bad[n] ^= 0x10
		if _, err := b.Open(sid, 2, bad); !errors.Is(err, ErrDecrypt) {
			t.Fatalf("byte %d: %v", n, err)
		}
	}
	// None of it changed the session.
	if got, err := b.Open(sid, 2, msg); err != nil || string(got) != "request" {
		t.Errorf("after the refusals: %q, %v", got, err)
	}
}

func TestHandshakeHashIsACopy(t *testing.T) {
	a, _ := sessions(t)
	want := a.HandshakeHash()
	a.HandshakeHash()[0] ^= 1
	if !bytes.Equal(a.HandshakeHash(), want) {
		t.Error("a caller changed the session's handshake hash")
	}
}

func TestNothingPrintsKeys(t *testing.T) {
	s, _ := sessions(t)
	i, _ := newInitiatorT(t, newKey(t))
	for _, v := range []any{s, i} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			if got := fmt.Sprintf(verb, v); got != "[redacted]" {
				t.Errorf("%s prints %s", verb, got)
			}
		}
		if got := slog.AnyValue(v).Resolve().String(); got != "[redacted]" {
			t.Errorf("slog prints %s", got)
		}
	}
}
