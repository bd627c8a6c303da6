package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"chatvault/protocol/opaque"
	"chatvault/protocol/vaultmsg"
)

// Format is the first byte of an encoded record.
const Format = 1

const (
	entrySize = 32 + 8 + 8 + 8 + 8 + 1
	claimSize = 16 + 32 + 1 + 8
	eventSize = 1 + 8 + 4

	fixedSize = 1 + 1 + 8 + // format, state, generation
		8 + 8 + 8 + // charges, base, not before
		16 + 32 + 8 + 4 + 32 + 8 + 64 + // registration
		80 + 33 + opaque.RegistrationRecordSize + vaultmsg.WrapSize + 9 + // secrets
		32 + 8*MaxReplacements + // owner, replacements
		3 // counts

	// Size is the length of every encoded record, in bytes: a record's length
	// tells nothing about it.
	Size = fixedSize + MaxEntries*entrySize + MaxClaims*claimSize + MaxEvents*eventSize
)

// ErrMalformed is wrapped by every error of Decode.
var ErrMalformed = errors.New("malformed record")

var be = binary.BigEndian

// Encode returns the record's Size bytes. It panics when a list is longer than
// its bound: that is a bug of the rules.
func (r *Record) Encode() []byte { return r.Append(make([]byte, 0, Size)) }

// Append appends what Encode returns.
func (r *Record) Append(b []byte) []byte {
	if len(r.Entries) > MaxEntries || len(r.Claims) > MaxClaims || len(r.Events) > MaxEvents {
		panic(fmt.Sprintf("record: %d entries, %d claims, %d events", len(r.Entries), len(r.Claims), len(r.Events)))
	}
	end := len(b) + Size
	b = append(b, Format, byte(r.State))
	for _, v := range []uint64{r.Generation, r.Charges, r.Base, r.NotBefore} {
		b = be.AppendUint64(b, v)
	}
	b = append(append(b, r.Registration[:]...), r.BodyHash[:]...)
	b = be.AppendUint32(be.AppendUint64(b, r.Replaced), r.ReplacedFailures)
	b = be.AppendUint64(append(b, r.RegisteredBy[:]...), r.RegisteredAt)
	b = append(b, r.ReceiptSignature[:]...)
	b = append(append(b, r.OPRFKey[:]...), r.OPRFPublic[:]...)
	b = append(append(b, r.OPAQUE[:]...), r.Wrap[:]...)
	b = be.AppendUint32(be.AppendUint32(b, r.KSF.MemoryKiB), r.KSF.Time)
	b = append(append(b, r.KSF.Parallelism), r.Owner[:]...)
	for _, t := range r.Replacements {
		b = be.AppendUint64(b, t)
	}
	b = append(b, byte(len(r.Entries)), byte(len(r.Claims)), byte(len(r.Events)))
	for _, e := range r.Entries {
		b = be.AppendUint64(be.AppendUint64(append(b, e.Attempt[:]...), e.Charge), e.Time)
		b = append(append(append(b, e.Device[:]...), e.Missed[:]...), flag(e.Open, 1)|flag(e.OffOwner, 2)|e.Misses<<2)
	}
	for _, c := range r.Claims {
		b = append(append(append(b, c.ID[:]...), c.Device[:]...), byte(c.What))
		b = be.AppendUint64(b, c.Made)
	}
	for _, e := range r.Events {
		b = append(be.AppendUint64(append(b, byte(e.Kind)), e.Time), e.Device[:]...)
	}
	return append(b, make([]byte, end-len(b))...)
}

// Decode reads what Encode wrote, and nothing else: every byte has to be as
// Encode would have it, and the counters have to make sense together.
func Decode(b []byte) (Record, error) {
	if len(b) != Size {
		return Record{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	if b[0] != Format {
		return Record{}, fmt.Errorf("%w: format %d", ErrMalformed, b[0])
	}
	d := &decoder{b: b[1:]}
	var r Record
	r.State = State(d.u8())
	r.Generation, r.Charges, r.Base, r.NotBefore = d.u64(), d.u64(), d.u64(), d.u64()
	d.copy(r.Registration[:])
	d.copy(r.BodyHash[:])
	r.Replaced, r.ReplacedFailures = d.u64(), d.u32()
	d.copy(r.RegisteredBy[:])
	r.RegisteredAt = d.u64()
	d.copy(r.ReceiptSignature[:])
	d.copy(r.OPRFKey[:])
	d.copy(r.OPRFPublic[:])
	d.copy(r.OPAQUE[:])
	d.copy(r.Wrap[:])
	r.KSF = opaque.Argon2id{MemoryKiB: d.u32(), Time: d.u32(), Parallelism: d.u8()}
	d.copy(r.Owner[:])
	for i := range r.Replacements {
		r.Replacements[i] = d.u64()
	}
	if err := r.decodeLists(d); err != nil {
		return Record{}, err
	}
	for _, c := range d.b {
		if c != 0 {
			return Record{}, fmt.Errorf("%w: padding is not zero", ErrMalformed)
		}
	}
	return r, r.check()
}

func (r *Record) decodeLists(d *decoder) error {
	entries, claims, events := int(d.u8()), int(d.u8()), int(d.u8())
	if entries > MaxEntries || claims > MaxClaims || events > MaxEvents {
		return fmt.Errorf("%w: %d entries, %d claims, %d events", ErrMalformed, entries, claims, events)
	}
	if entries > 0 { // with room for the one that a charge adds
		r.Entries = make([]Entry, 0, MaxEntries)
	}
	for range entries {
		var e Entry
		d.copy(e.Attempt[:])
		e.Charge, e.Time = d.u64(), d.u64()
		d.copy(e.Device[:])
		d.copy(e.Missed[:])
		flags := d.u8()
		if e.Misses = flags >> 2; e.Misses > MaxMisses {
			return fmt.Errorf("%w: entry flags %d", ErrMalformed, flags)
		}
		e.Open, e.OffOwner = flags&1 != 0, flags&2 != 0
		r.Entries = append(r.Entries, e)
	}
	for range claims {
		var c Claim
		d.copy(c.ID[:])
		d.copy(c.Device[:])
		c.What, c.Made = vaultmsg.ClaimKind(d.u8()), d.u64()
		r.Claims = append(r.Claims, c)
	}
	r.Events = slices.Grow(r.Events, events)
	for range events {
		e := vaultmsg.Event{Kind: vaultmsg.EventKind(d.u8()), Time: d.u64()}
		d.copy(e.Device[:])
		r.Events = append(r.Events, e)
	}
	return nil
}

// check holds a decoded record against what the rules can make. The record was
// sealed, so a record that fails was written by a fault of this program: it is
// better refused than counted with.
func (r *Record) check() error {
	switch {
	case r.State < Live || r.State > Swept:
		return fmt.Errorf("%w: state %d", ErrMalformed, r.State)
	case r.Base > r.Charges || r.Charges-r.Base > MaxEntries:
		return fmt.Errorf("%w: %d charges over base %d", ErrMalformed, r.Charges, r.Base)
	}
	last := uint64(0)
	for _, e := range r.Entries {
		if e.Charge <= last || e.Charge > r.Charges {
			return fmt.Errorf("%w: entry of charge %d out of order", ErrMalformed, e.Charge)
		}
		if e.Open && e.Misses == MaxMisses {
			return fmt.Errorf("%w: entry of charge %d is open after %d misses", ErrMalformed, e.Charge, e.Misses)
		}
		last = e.Charge
	}
	for _, c := range r.Claims {
		if c.What != vaultmsg.ClaimReplace && c.What != vaultmsg.ClaimDelete {
			return fmt.Errorf("%w: claim kind %d", ErrMalformed, c.What)
		}
	}
	return nil
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

// decoder takes fields off the front of a buffer whose length was checked.
type decoder struct{ b []byte }

func (d *decoder) take(n int) []byte {
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u8() uint8       { return d.take(1)[0] }
func (d *decoder) u32() uint32     { return be.Uint32(d.take(4)) }
func (d *decoder) u64() uint64     { return be.Uint64(d.take(8)) }
func (d *decoder) copy(dst []byte) { copy(dst, d.take(len(dst))) }
