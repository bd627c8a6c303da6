package vaultmsg_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"reflect"
	"strings"
	"testing"

	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
	"chatvault/protocol/secret"
	. "chatvault/protocol/vaultmsg"
)

func requests() []Request {
	ksf := opaque.DefaultArgon2id
	return []Request{
		Authorise{DeviceKey: [65]byte{4}, Signature: [64]byte{63: 1}, Ticket: "t"},
		Authorise{Ticket: strings.Repeat("t", frame.MaxTicket)},
		StatusRequest{},
		RegisterStart{Purpose: PurposeReplace, Generation: 1 << 60, Blinded: [33]byte{2}},
		RegisterFinish{ID: RegistrationID{1}, Record: [129]byte{128: 9}, Wrap: [128]byte{1}, KSF: ksf},
		RecoverStart{KE1: [98]byte{97: 1}},
		RecoverFinish{KE3: [32]byte{31: 1}},
		Abort{},
		Delete{Generation: 7},
		Claim{What: ClaimDelete, Generation: 3},
		Cancel{ID: ClaimID{15: 1}},
	}
}

func replies() []Reply {
	full := AccountStatus{State: StateLive, Owner: true, Generation: 1 << 63, KSF: opaque.DefaultArgon2id,
		Failures: 9, OtherFailure: 8, Registration: RegistrationID{1}, BodyHash: [32]byte{2}, Issuer: strings.Repeat("i", MaxIssuerName)}
	for range MaxClaims {
		full.Claims = append(full.Claims, ClaimInfo{ID: ClaimID{1}, What: ClaimReplace, Mine: true, Ripe: 1 << 40, Expires: 1 << 41})
	}
	for range MaxEvents {
		full.Events = append(full.Events, Event{Kind: EventWrongFinish, Time: 1 << 40, Device: [4]byte{1, 2, 3, 4}})
	}
	return []Reply{
		{Kind: KAuthorise, Left: 10, Body: full},
		{Kind: KStatus, Body: AccountStatus{Issuer: "i"}},
		{Kind: KRegisterStart, Body: RegisterStarted{Generation: 2, Response: [66]byte{65: 1}}},
		{Kind: KRegisterFinish, Body: Receipt{Generation: 2, Replaced: 1, ReplacedFailures: 3, Time: 4, Signature: [64]byte{63: 1}}},
		{Kind: KRecoverStart, Charged: true, Left: 9, Body: RecoverStarted{Generation: 5, KSF: opaque.DefaultArgon2id, KE2: [259]byte{258: 1}}},
		{Kind: KRecoverFinish, Left: 10, Body: Recovered{Generation: 5, Failures: 2, Release: [144]byte{143: 1}}},
		{Kind: KClaim, Body: Claimed{ID: ClaimID{1}, Ripe: 2, Expires: 3}},
		{Kind: KAbort, Status: frame.OK}, {Kind: KDelete}, {Kind: KCancel},
		{Kind: KAbort, Status: frame.WrongPassword, Charged: true, Left: 3},
		{Kind: KRecoverStart, Status: frame.Paced, Until: 1 << 40},
	}
}

func TestRequestsRoundTripInOneSize(t *testing.T) {
	for _, r := range requests() {
		b := EncodeRequest(r)
		if want := map[bool]int{true: AuthoriseSize, false: Size}[r.Kind() == KAuthorise]; len(b) != want {
			t.Errorf("%T: %d bytes", r, len(b))
		}
		got, err := ParseRequest(b)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%T: got %+v, %v", r, got, err)
		}
		for _, n := range []int{0, 1, len(b) - 1} {
			if _, err := ParseRequest(b[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%T cut to %d: %v", r, n, err)
			}
		}
		b[len(b)-1] = 1
		if _, err := ParseRequest(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%T with a byte in its padding: %v", r, err)
		}
	}
}

func TestRepliesRoundTripInOneSize(t *testing.T) {
	for _, r := range replies() {
		b := r.Encode()
		if len(b) != Size {
			t.Errorf("%+v: %d bytes", r, len(b))
		}
		got, err := ParseReply(b)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("got %+v, %v, want %+v", got, err, r)
		}
	}
}

func TestUnknownKindsAndValuesAreRefused(t *testing.T) {
	for _, b := range [][]byte{{0}, {11}, {255}, {byte(KRegisterStart), 0}, {byte(KRegisterStart), 4}, {byte(KClaim), 3}, {byte(KAuthorise)}} {
		msg := append(b, make([]byte, Size-len(b))...)
		if _, err := ParseRequest(msg); !errors.Is(err, ErrMalformed) {
			t.Errorf("request %x: %v", b, err)
		}
	}
	ok := Reply{Kind: KStatus, Body: AccountStatus{Issuer: "i"}}.Encode()
	for at, v := range map[int]byte{0: 0, 3: 2, 13: 4, 14: 2} { // kind, charged, state, owner
		b := bytes.Clone(ok)
		b[at] = v
		if _, err := ParseReply(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("reply with byte %d = %d: %v", at, v, err)
		}
	}
}

func TestReceiptVerifiesOnlyAsSigned(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	pub, _ := key.PublicKey.Bytes()
	r := Receipt{ID: RegistrationID{1}, BodyHash: [32]byte{2}, Generation: 3, Replaced: 2, ReplacedFailures: 1, Owner: Thumbprint{4}, Time: 5}
	digest := r.Digest("demo", [32]byte{6})
	x, y, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	x.FillBytes(r.Signature[:32])
	y.FillBytes(r.Signature[32:])
	if err := r.Verify(pub, "demo", [32]byte{6}); err != nil {
		t.Fatal(err)
	}
	encoded := r.Encode()
	for i := range encoded {
		b := bytes.Clone(encoded)
		b[i] ^= 1
		bad, err := ParseReceipt(b)
		if err != nil || bad.Verify(pub, "demo", [32]byte{6}) == nil {
			t.Fatalf("byte %d flipped: still verifies (%v)", i, err)
		}
	}
	if r.Verify(pub, "other", [32]byte{6}) == nil || r.Verify(pub, "demo", [32]byte{7}) == nil {
		t.Error("verifies for another fleet or account")
	}
	if _, err := ParseReceipt(encoded[1:]); err == nil {
		t.Error("a short receipt was parsed")
	}
}

func TestReleaseOpensOnlyForItsAttemptAndKey(t *testing.T) {
	key := secret.Key{B: [32]byte{1}}
	wrap := [WrapSize]byte{WrapKey64, 2, 3}
	sealed := SealRelease(key, [32]byte{4}, wrap)
	if got, err := OpenRelease(key, [32]byte{4}, sealed); err != nil || got != wrap {
		t.Fatal("does not open", err)
	}
	if _, err := OpenRelease(key, [32]byte{5}, sealed); !errors.Is(err, ErrRelease) {
		t.Error("opens for another attempt")
	}
	if _, err := OpenRelease(secret.Key{}, [32]byte{4}, sealed); !errors.Is(err, ErrRelease) {
		t.Error("opens under another key")
	}
}

// TestDerivationsAreUnambiguous moves one byte across each border between two
// fields: without lengths the results would be equal.
func TestDerivationsAreUnambiguous(t *testing.T) {
	if bytes.Equal(OPRFInput([]byte("p"), "fl", "i", "s"), OPRFInput([]byte("pf"), "l", "i", "s")) ||
		bytes.Equal(OPRFInput([]byte("p"), "f", "is", "s"), OPRFInput([]byte("p"), "f", "i", "ss")) ||
		bytes.Equal(ClientIdentity("is", "s", 1), ClientIdentity("i", "ss", 1)) {
		t.Error("two inputs, one encoding")
	}
	a := AttemptID(1, Thumbprint{1}, [33]byte{2})
	if a == AttemptID(2, Thumbprint{1}, [33]byte{2}) || a == AttemptID(1, Thumbprint{2}, [33]byte{2}) || a == AttemptID(1, Thumbprint{1}, [33]byte{3}) {
		t.Error("two attempts, one id")
	}
	c := Context(opaque.DefaultArgon2id, [32]byte{1})
	if bytes.Equal(c, Context(opaque.Argon2id{MemoryKiB: 19 << 10, Time: 2, Parallelism: 1}, [32]byte{1})) || bytes.Equal(c, Context(opaque.DefaultArgon2id, [32]byte{2})) {
		t.Error("two logins, one context")
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, r := range requests() {
		f.Add(EncodeRequest(r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(EncodeRequest(r), b) {
			t.Fatalf("%+v re-encodes to other bytes", r)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	for _, r := range replies() {
		f.Add(r.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReply(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(r.Encode(), b) {
			t.Fatalf("%+v re-encodes to other bytes", r)
		}
	})
}
