package record_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"chatvault/protocol/opaque"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
)

// full is a record with every list full and every field set.
func full() record.Record {
	r := record.Record{
		State: record.Live, Generation: 1 << 60, Charges: 25, Base: 15, NotBefore: 1 << 40,
		Registration: vaultmsg.RegistrationID{1}, BodyHash: [32]byte{2}, Replaced: 3, ReplacedFailures: 4,
		RegisteredBy: vaultmsg.Thumbprint{5}, RegisteredAt: 6, ReceiptSignature: [64]byte{7},
		OPRFKey: [80]byte{8}, OPRFPublic: [33]byte{9}, OPAQUE: [129]byte{10}, Wrap: [128]byte{11}, KSF: opaque.DefaultArgon2id,
		Owner: vaultmsg.Thumbprint{12}, Replacements: [3]uint64{3, 2, 1},
	}
	for i := range record.MaxEntries {
		r.Entries = append(r.Entries, record.Entry{Attempt: [32]byte{byte(i)}, Charge: uint64(16 + i), Time: 9, Open: i%2 == 0, OffOwner: i%3 == 0,
			Device: [8]byte{byte(i)}, Misses: uint8(i % 4), Missed: [8]byte{byte(i), 1}})
	}
	for range record.MaxClaims {
		r.Claims = append(r.Claims, record.Claim{ID: vaultmsg.ClaimID{1}, Device: vaultmsg.Thumbprint{2}, What: vaultmsg.ClaimDelete, Made: 3})
	}
	for range record.MaxEvents {
		r.Events = append(r.Events, vaultmsg.Event{Kind: vaultmsg.EventFailed, Time: 4, Device: [4]byte{5}})
	}
	return r
}

func TestEveryRecordHasOneSizeAndComesBack(t *testing.T) {
	for _, r := range []record.Record{full(), {State: record.Destroyed, Generation: 1}, {State: record.Decoy}, {State: record.Permits, Replaced: 5}, {State: record.Swept, NotBefore: 7}} {
		b := r.Encode()
		if len(b) != record.Size {
			t.Errorf("%d bytes, want %d", len(b), record.Size)
		}
		got, err := record.Decode(b)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func TestFieldsThatCannotBeTrueAreRefused(t *testing.T) {
	for name, change := range map[string]func(*record.Record){
		"state 0":                    func(r *record.Record) { r.State = 0 },
		"an unknown state":           func(r *record.Record) { r.State = record.Swept + 1 },
		"base over charges":          func(r *record.Record) { r.Base = r.Charges + 1 },
		"eleven charges over base":   func(r *record.Record) { r.Base = r.Charges - 11 },
		"entries out of order":       func(r *record.Record) { r.Entries[0], r.Entries[1] = r.Entries[1], r.Entries[0] },
		"an entry charged twice":     func(r *record.Record) { r.Entries[1].Charge = r.Entries[0].Charge },
		"an entry that comes later":  func(r *record.Record) { r.Entries[9].Charge = r.Charges + 1 },
		"an entry missed too often":  func(r *record.Record) { r.Entries[1].Misses = record.MaxMisses + 1 },
		"one that is still open":     func(r *record.Record) { r.Entries[0].Misses = record.MaxMisses },
		"a claim to nothing":         func(r *record.Record) { r.Claims[0].What = 0 },
		"an entry with charge zero":  func(r *record.Record) { r.Entries = []record.Entry{{}} },
		"a claim of an unknown kind": func(r *record.Record) { r.Claims[3].What = 3 },
	} {
		r := full()
		change(&r)
		if _, err := record.Decode(r.Encode()); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := (&record.Record{State: record.Live}).Encode()
	for name, bad := range map[string][]byte{
		"short": b[:len(b)-1], "long": append(bytes.Clone(b), 0), "empty": nil,
		"format 2":      append([]byte{2}, b[1:]...),
		"dirty padding": append(bytes.Clone(b[:len(b)-1]), 1),
	} {
		if _, err := record.Decode(bad); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	r := full()
	c := r.Clone()
	c.Entries[0].Open, c.Claims[0].Made, c.Events[0].Time = false, 99, 99
	if !reflect.DeepEqual(r, full()) {
		t.Error("a change to the clone changed the record")
	}
}

func FuzzDecode(f *testing.F) {
	for _, r := range []record.Record{full(), {State: record.Live}} {
		f.Add(r.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := record.Decode(b)
		if err != nil {
			if !errors.Is(err, record.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(r.Encode(), b) {
			t.Fatal("re-encodes to other bytes")
		}
	})
}
