package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by every error of this package's parsers.
var ErrMalformed = errors.New("malformed frame")

var errCredit = fmt.Errorf("%w: UPLINK_CREDIT", ErrMalformed)

var be = binary.BigEndian

// Append implements Frame.
func (h Hello) Append(b []byte) []byte {
	b = append(b, byte(THello), h.Version)
	b = append(b, h.Nonce[:]...)
	return be.AppendUint32(b, h.BundleEpoch)
}

// Append implements Frame.
func (a Auth) Append(b []byte) []byte {
	b = append(b, byte(TAuth))
	b = append(b, a.DeviceKey[:]...)
	b = append(b, a.Signature[:]...)
	b = appendLP(b, a.Host, 1, MaxHost)
	return appendLP(b, a.Ticket, 1, MaxTicket)
}

// Append implements Frame.
func (r Ready) Append(b []byte) []byte {
	b = be.AppendUint64(append(b, byte(TReady)), r.TicketEnds)
	return be.AppendUint32(b, r.PingMillis)
}

// Append implements Frame.
func (o Open) Append(b []byte) []byte {
	checkSize("OPEN payload", len(o.Payload), 1, MaxPayload)
	b = be.AppendUint32(append(b, byte(TOpen)), o.Tag)
	return append(b, o.Payload...)
}

// Append implements Frame.
func (a Attach) Append(b []byte) []byte {
	b = be.AppendUint32(append(b, byte(TAttach)), a.Tag)
	return append(b, a.Session[:]...)
}

// Append implements Frame.
func (d Data) Append(b []byte) []byte {
	checkSize("DATA payload", len(d.Payload), 1, MaxPayload)
	b = append(append(b, byte(TData)), d.Session[:]...)
	b = be.AppendUint32(b, d.Sequence)
	return append(b, d.Payload...)
}

// Append implements Frame.
func (c Close) Append(b []byte) []byte {
	b = append(append(b, byte(TClose)), c.Session[:]...)
	return be.AppendUint16(b, uint16(c.Status))
}

// Append implements Frame.
func (Notice) Append(b []byte) []byte { return append(b, byte(TNotice)) }

// Append implements Frame.
func (g Goaway) Append(b []byte) []byte {
	b = be.AppendUint16(append(b, byte(TGoaway)), uint16(g.Status))
	return be.AppendUint32(b, g.ReconnectMillis)
}

// Append implements Frame.
func (r Refuse) Append(b []byte) []byte {
	b = append(b, byte(TRefuse), byte(r.Refused))
	b = be.AppendUint32(b, r.Tag)
	b = append(b, r.Session[:]...)
	b = be.AppendUint16(b, uint16(r.Status))
	b = be.AppendUint32(b, r.RetryMillis)
	return appendLP(b, r.Limit, 0, MaxLimit)
}

// Parse reads one frame. Payloads alias b. Every error wraps ErrMalformed.
func Parse(b []byte) (Frame, error) {
	if len(b) == 0 || len(b) > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	r := reader{b: b[1:]}
	var f Frame
	switch t := Type(b[0]); t {
	case THello:
		f = parseHello(&r)
	case TAuth:
		f = parseAuth(&r)
	case TReady:
		f = Ready{TicketEnds: r.u64(), PingMillis: r.u32()}
	case TOpen:
		f = Open{Tag: r.u32(), Payload: r.rest(1, MaxPayload)}
	case TAttach:
		f = Attach{Tag: r.u32(), Session: r.session()}
	case TData:
		f = Data{Session: r.session(), Sequence: r.u32(), Payload: r.rest(1, MaxPayload)}
	case TClose:
		f = Close{Session: r.session(), Status: Status(r.u16())}
	case TNotice:
		f = Notice{}
	case TGoaway:
		f = Goaway{Status: Status(r.u16()), ReconnectMillis: r.u32()}
	case TRefuse:
		f = parseRefuse(&r)
	default:
		return nil, fmt.Errorf("%w: unknown type 0x%02x", ErrMalformed, uint8(t))
	}
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: body of type 0x%02x", ErrMalformed, b[0])
	}
	return f, nil
}

// ParseData reads a DATA frame without allocating: the path of every relayed
// frame. The payload aliases b.
func ParseData(b []byte) (Data, error) {
	if len(b) <= dataHeader || len(b) > MaxFrame || Type(b[0]) != TData {
		return Data{}, ErrMalformed
	}
	return Data{
		Session:  SessionID(b[1 : 1+SessionIDSize]),
		Sequence: be.Uint32(b[1+SessionIDSize:]),
		Payload:  b[dataHeader:],
	}, nil
}

func parseHello(r *reader) Hello {
	h := Hello{Version: r.u8()}
	copy(h.Nonce[:], r.take(NonceSize))
	h.BundleEpoch = r.u32()
	return h
}

func parseAuth(r *reader) Auth {
	var a Auth
	copy(a.DeviceKey[:], r.take(DeviceKeySize))
	copy(a.Signature[:], r.take(SignatureSize))
	a.Host = r.lp(1, MaxHost)
	a.Ticket = r.lp(1, MaxTicket)
	return a
}

func parseRefuse(r *reader) Refuse {
	return Refuse{
		Refused: Type(r.u8()), Tag: r.u32(), Session: r.session(),
		Status: Status(r.u16()), RetryMillis: r.u32(), Limit: r.lp(0, MaxLimit),
	}
}

func appendLP(b []byte, s string, min, max int) []byte {
	checkSize("field", len(s), min, max)
	return append(be.AppendUint16(b, uint16(len(s))), s...)
}

func checkSize(what string, n, min, max int) {
	if n < min || n > max {
		panic(fmt.Sprintf("frame: %s of %d bytes, outside %d to %d", what, n, min, max))
	}
}

// reader takes fields off the front of a body; the first one that does not
// fit makes it bad for good.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return be.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return be.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return be.Uint64(b)
	}
	return 0
}

func (r *reader) session() (s SessionID) {
	copy(s[:], r.take(SessionIDSize))
	return s
}

func (r *reader) lp(min, max int) string {
	n := int(r.u16())
	if n < min || n > max {
		r.bad = true
	}
	return string(r.take(n))
}

func (r *reader) rest(min, max int) []byte {
	if len(r.b) < min || len(r.b) > max {
		r.bad = true
	}
	return r.take(len(r.b))
}
