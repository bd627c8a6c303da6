package vaultmsg

import (
	"encoding/binary"
	"fmt"

	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
)

// EncodeRequest encodes and pads a request. It panics when a field is outside
// of its limits: that is a bug of the caller.
func EncodeRequest(r Request) []byte {
	size := Size
	if r.Kind() == KAuthorise {
		size = AuthoriseSize
	}
	w := &writer{b: make([]byte, 0, size)}
	w.u8(uint8(r.Kind()))
	r.fields(w)
	return w.pad(size)
}

// ParseRequest reads a request. Every error wraps ErrMalformed.
func ParseRequest(b []byte) (Request, error) {
	if len(b) != Size && len(b) != AuthoriseSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	r := &reader{b: b[1:]}
	kind := Kind(b[0])
	if (kind == KAuthorise) != (len(b) == AuthoriseSize) {
		return nil, fmt.Errorf("%w: kind %d in %d bytes", ErrMalformed, kind, len(b))
	}
	req := parseRequestBody(kind, r)
	if req == nil {
		return nil, fmt.Errorf("%w: unknown kind %d", ErrMalformed, kind)
	}
	if !r.end() {
		return nil, fmt.Errorf("%w: body of kind %d", ErrMalformed, kind)
	}
	return req, nil
}

func parseRequestBody(kind Kind, r *reader) Request {
	switch kind {
	case KAuthorise:
		var m Authorise
		r.copy(m.DeviceKey[:])
		r.copy(m.Signature[:])
		m.Ticket = r.lp(1, frame.MaxTicket)
		return m
	case KStatus:
		return StatusRequest{}
	case KRegisterStart:
		m := RegisterStart{Purpose: Purpose(r.enum(1, 3)), Generation: r.u64()}
		r.copy(m.Blinded[:])
		return m
	case KRegisterFinish:
		var m RegisterFinish
		r.copy(m.ID[:])
		r.copy(m.Record[:])
		r.copy(m.Wrap[:])
		m.KSF = r.ksf()
		return m
	case KRecoverStart:
		var m RecoverStart
		r.copy(m.KE1[:])
		return m
	case KRecoverFinish:
		var m RecoverFinish
		r.copy(m.KE3[:])
		return m
	case KAbort:
		return Abort{}
	case KDelete:
		return Delete{Generation: r.u64()}
	case KClaim:
		return Claim{What: ClaimKind(r.enum(1, 2)), Generation: r.u64()}
	case KCancel:
		var m Cancel
		r.copy(m.ID[:])
		return m
	}
	return nil
}

func (m Authorise) fields(w *writer) {
	w.bytes(m.DeviceKey[:])
	w.bytes(m.Signature[:])
	w.lp(m.Ticket, 1, frame.MaxTicket)
}
func (StatusRequest) fields(*writer) {}
func (m RegisterStart) fields(w *writer) {
	w.u8(uint8(m.Purpose))
	w.u64(m.Generation)
	w.bytes(m.Blinded[:])
}
func (m RegisterFinish) fields(w *writer) {
	w.bytes(m.ID[:])
	w.bytes(m.Record[:])
	w.bytes(m.Wrap[:])
	w.ksf(m.KSF)
}
func (m RecoverStart) fields(w *writer)  { w.bytes(m.KE1[:]) }
func (m RecoverFinish) fields(w *writer) { w.bytes(m.KE3[:]) }
func (Abort) fields(*writer)             {}
func (m Delete) fields(w *writer)        { w.u64(m.Generation) }
func (m Claim) fields(w *writer) {
	w.u8(uint8(m.What))
	w.u64(m.Generation)
}
func (m Cancel) fields(w *writer) { w.bytes(m.ID[:]) }

// Encode encodes and pads a reply. It panics when a field is outside of its
// limits, or the body is not the kind's.
func (m Reply) Encode() []byte {
	if (m.Body != nil) != (m.Status == frame.OK && hasBody(m.Kind)) {
		panic(fmt.Sprintf("vaultmsg: reply of kind %d, %s, with body %T", m.Kind, m.Status, m.Body))
	}
	w := &writer{b: make([]byte, 0, Size)}
	w.u8(uint8(m.Kind))
	w.u16(uint16(m.Status))
	w.bool(m.Charged)
	w.u8(m.Left)
	w.u64(m.Until)
	if m.Body != nil {
		m.Body.fields(w)
	}
	return w.pad(Size)
}

// ParseReply reads a reply. Every error wraps ErrMalformed.
func ParseReply(b []byte) (Reply, error) {
	if len(b) != Size {
		return Reply{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	r := &reader{b: b}
	m := Reply{Kind: Kind(r.enum(1, uint8(KCancel))), Status: frame.Status(r.u16()), Charged: r.bool(), Left: r.u8(), Until: r.u64()}
	if m.Status == frame.OK && hasBody(m.Kind) && !r.bad {
		m.Body = parseReplyBody(m.Kind, r)
	}
	if !r.end() {
		return Reply{}, fmt.Errorf("%w: reply of kind %d", ErrMalformed, b[0])
	}
	return m, nil
}

func hasBody(k Kind) bool {
	switch k {
	case KAbort, KDelete, KCancel:
		return false
	}
	return true
}

func parseReplyBody(kind Kind, r *reader) Body {
	switch kind {
	case KAuthorise, KStatus:
		return parseAccountStatus(r)
	case KRegisterStart:
		var m RegisterStarted
		r.copy(m.ID[:])
		m.Generation = r.u64()
		r.copy(m.Response[:])
		return m
	case KRegisterFinish:
		return parseReceipt(r)
	case KRecoverStart:
		m := RecoverStarted{Generation: r.u64(), KSF: r.ksf()}
		r.copy(m.KE2[:])
		return m
	case KRecoverFinish:
		m := Recovered{Generation: r.u64(), Failures: r.u32()}
		r.copy(m.Release[:])
		return m
	default: // KClaim
		var m Claimed
		r.copy(m.ID[:])
		m.Ripe, m.Expires = r.u64(), r.u64()
		return m
	}
}

func (m RegisterStarted) fields(w *writer) {
	w.bytes(m.ID[:])
	w.u64(m.Generation)
	w.bytes(m.Response[:])
}
func (m RecoverStarted) fields(w *writer) {
	w.u64(m.Generation)
	w.ksf(m.KSF)
	w.bytes(m.KE2[:])
}
func (m Recovered) fields(w *writer) {
	w.u64(m.Generation)
	w.u32(m.Failures)
	w.bytes(m.Release[:])
}
func (m Claimed) fields(w *writer) {
	w.bytes(m.ID[:])
	w.u64(m.Ripe)
	w.u64(m.Expires)
}

func (m AccountStatus) fields(w *writer) {
	w.u8(uint8(m.State))
	w.bool(m.Owner)
	w.u64(m.Generation)
	w.ksf(m.KSF)
	w.u32(m.Failures)
	w.u32(m.OtherFailure)
	w.bytes(m.Registration[:])
	w.bytes(m.BodyHash[:])
	w.lp(m.Issuer, 1, MaxIssuerName)
	w.count(len(m.Claims), MaxClaims)
	for _, c := range m.Claims {
		w.bytes(c.ID[:])
		w.u8(uint8(c.What))
		w.bool(c.Mine)
		w.u64(c.Ripe)
		w.u64(c.Expires)
	}
	w.count(len(m.Events), MaxEvents)
	for _, e := range m.Events {
		w.u8(uint8(e.Kind))
		w.u64(e.Time)
		w.bytes(e.Device[:])
	}
}

func parseAccountStatus(r *reader) Body {
	m := AccountStatus{State: State(r.enum(0, 3)), Owner: r.bool(), Generation: r.u64(), KSF: r.ksf(), Failures: r.u32(), OtherFailure: r.u32()}
	r.copy(m.Registration[:])
	r.copy(m.BodyHash[:])
	m.Issuer = r.lp(1, MaxIssuerName)
	for range r.enum(0, MaxClaims) {
		var c ClaimInfo
		r.copy(c.ID[:])
		c.What, c.Mine, c.Ripe, c.Expires = ClaimKind(r.enum(1, 2)), r.bool(), r.u64(), r.u64()
		m.Claims = append(m.Claims, c)
	}
	for range r.enum(0, MaxEvents) {
		e := Event{Kind: EventKind(r.enum(1, uint8(EventWrongFinish))), Time: r.u64()}
		r.copy(e.Device[:])
		m.Events = append(m.Events, e)
	}
	return m
}

var be = binary.BigEndian

// writer appends fields.
type writer struct{ b []byte }

func (w *writer) u8(v uint8)     { w.b = append(w.b, v) }
func (w *writer) u16(v uint16)   { w.b = be.AppendUint16(w.b, v) }
func (w *writer) u32(v uint32)   { w.b = be.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64)   { w.b = be.AppendUint64(w.b, v) }
func (w *writer) bytes(v []byte) { w.b = append(w.b, v...) }

func (w *writer) bool(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}

func (w *writer) ksf(k opaque.Argon2id) {
	w.u32(k.MemoryKiB)
	w.u32(k.Time)
	w.u8(k.Parallelism)
}

func (w *writer) lp(s string, min, max int) {
	if len(s) < min || len(s) > max {
		panic(fmt.Sprintf("vaultmsg: field of %d bytes, outside %d to %d", len(s), min, max))
	}
	w.u16(uint16(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) count(n, max int) {
	if n > max {
		panic(fmt.Sprintf("vaultmsg: %d items, more than %d", n, max))
	}
	w.u8(uint8(n))
}

func (w *writer) pad(size int) []byte {
	if len(w.b) > size {
		panic(fmt.Sprintf("vaultmsg: message of %d bytes, more than %d", len(w.b), size))
	}
	return append(w.b, make([]byte, size-len(w.b))...)
}

// reader takes fields off the front; the first that does not fit makes it bad
// for good.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() uint8       { return r.take(1)[0] }
func (r *reader) u16() uint16     { return be.Uint16(r.take(2)) }
func (r *reader) u32() uint32     { return be.Uint32(r.take(4)) }
func (r *reader) u64() uint64     { return be.Uint64(r.take(8)) }
func (r *reader) copy(dst []byte) { copy(dst, r.take(len(dst))) }
func (r *reader) bool() bool      { return r.enum(0, 1) == 1 }

// enum reads a byte that has to lie within min and max.
func (r *reader) enum(min, max uint8) uint8 {
	v := r.u8()
	if v < min || v > max {
		r.bad = true
		return 0
	}
	return v
}

func (r *reader) lp(min, max int) string {
	n := int(r.u16())
	if n < min || n > max {
		r.bad = true
		return ""
	}
	return string(r.take(n))
}

func (r *reader) ksf() opaque.Argon2id {
	return opaque.Argon2id{MemoryKiB: r.u32(), Time: r.u32(), Parallelism: r.u8()}
}

// end says that all fields fitted and only zero padding is left: one message
// has one encoding.
func (r *reader) end() bool {
	for _, b := range r.b {
		if b != 0 {
			return false
		}
	}
	return !r.bad
}
