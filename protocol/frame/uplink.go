package frame

import (
	"bufio"
	"fmt"
	"io"
)

// An uplink is a multiplexed connection from a chatd to a vaultd, of which there is
// one, or a few: TCP with mutual TLS 1.3, dialled by chatd. Each side sends envelopes:
//
//	length u32 (of what follows) ‖ connection u32 ‖ frame
//
// Connection is chatd's own number for a client's connection, never reused
// within an uplink; 0 is the uplink itself. The frames on a connection are
// those of the outer wire (OPEN, ATTACH, DATA, CLOSE, NOTICE, REFUSE), and
// these, which no client ever sees:
const (
	TUplinkHello Type = 0x41 // vaultd→chatd, connection 0, first: version u8 ‖ node 4 ‖ lp(fleet)
	TUplinkPeer  Type = 0x42 // chatd→vaultd, before a connection's first OPEN or ATTACH: peer hash 32
	TUplinkGone  Type = 0x43 // chatd→vaultd: the client's connection has ended
	TUplinkPing  Type = 0x44 // both, connection 0: answered by a pong
	TUplinkPong  Type = 0x45 // both, connection 0
	TUplinkDrain Type = 0x46 // vaultd→chatd, connection 0: open no new sessions here
	// both, on a client's connection: so many DATA frames of the session have been used
	TUplinkCredit Type = 0x47 // session id 20 ‖ frames u16 (1 to 64)
)

// UplinkVersion is the version that UplinkHello names. Version 1 had no credit.
const UplinkVersion = 2

const (
	maxFleet         = 64
	uplinkHeader     = 4
	minEnvelope      = uplinkHeader + 1
	maxEnvelope      = uplinkHeader + MaxFrame
	envelopeOverhead = 4 + uplinkHeader
)

// MaxEnvelope is the largest envelope on an uplink, its length field included.
const MaxEnvelope = 4 + maxEnvelope

// UplinkHello says whom chatd has reached.
type UplinkHello struct {
	Version uint8
	Node    NodeID
	Fleet   string
}

// UplinkPeer says whose connection it is: SHA-256 of lp(issuer name) ‖ lp(sub) ‖
// device thumbprint 32, as chatd verified them. vaultd lets a session be
// attached only to connections of the peer that opened it. It authorises
// nothing: that takes AUTHORISE, inside the session.
type UplinkPeer struct{ Hash [32]byte }

// UplinkGone says that a client's connection has ended: its sessions are
// detached, not closed.
type UplinkGone struct{}

// UplinkPing asks whether the other side still lives.
type UplinkPing struct{}

// UplinkPong answers an UplinkPing.
type UplinkPong struct{}

// UplinkDrain asks chatd to open no new sessions on this node.
type UplinkDrain struct{}

// UplinkCredit gives back so many DATA frames of a session's window (flow.go).
type UplinkCredit struct {
	Session SessionID
	Frames  uint16 // 1 to Window
}

// Type implements Frame.
func (UplinkHello) Type() Type { return TUplinkHello }
func (UplinkPeer) Type() Type  { return TUplinkPeer }
func (UplinkGone) Type() Type  { return TUplinkGone }
func (UplinkPing) Type() Type  { return TUplinkPing }
func (UplinkPong) Type() Type  { return TUplinkPong }
func (UplinkDrain) Type() Type { return TUplinkDrain }

// Type implements Frame.
func (UplinkCredit) Type() Type { return TUplinkCredit }

// Append implements Frame.
func (h UplinkHello) Append(b []byte) []byte {
	b = append(b, byte(TUplinkHello), h.Version)
	b = append(b, h.Node[:]...)
	return appendLP(b, h.Fleet, 1, maxFleet)
}

// Append implements Frame.
func (p UplinkPeer) Append(b []byte) []byte {
	return append(append(b, byte(TUplinkPeer)), p.Hash[:]...)
}

// Append implements Frame.
func (UplinkGone) Append(b []byte) []byte  { return append(b, byte(TUplinkGone)) }
func (UplinkPing) Append(b []byte) []byte  { return append(b, byte(TUplinkPing)) }
func (UplinkPong) Append(b []byte) []byte  { return append(b, byte(TUplinkPong)) }
func (UplinkDrain) Append(b []byte) []byte { return append(b, byte(TUplinkDrain)) }

// Append implements Frame.
func (c UplinkCredit) Append(b []byte) []byte {
	checkSize("credit", int(c.Frames), 1, Window)
	b = append(append(b, byte(TUplinkCredit)), c.Session[:]...)
	return be.AppendUint16(b, c.Frames)
}

// AppendEnvelope appends f, addressed to a connection.
func AppendEnvelope(b []byte, conn uint32, f Frame) []byte {
	at := len(b)
	b = be.AppendUint32(append(b, 0, 0, 0, 0), conn)
	b = f.Append(b)
	be.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// AppendRawEnvelope appends a frame that is already encoded: the relay's path,
// which allocates nothing.
func AppendRawEnvelope(b []byte, conn uint32, raw []byte) []byte {
	checkSize("raw frame", len(raw), 1, MaxFrame)
	b = be.AppendUint32(b, uint32(uplinkHeader+len(raw)))
	b = be.AppendUint32(b, conn)
	return append(b, raw...)
}

// ReadEnvelope reads one envelope into buf, which must hold MaxFrame bytes; raw
// aliases it. io.EOF means a clean end between two envelopes; a length outside
// of the limits wraps ErrMalformed.
func ReadEnvelope(r *bufio.Reader, buf []byte) (conn uint32, raw []byte, err error) {
	head, err := r.Peek(envelopeOverhead)
	if err != nil {
		if err == io.EOF && len(head) != 0 {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	n := be.Uint32(head)
	if n < minEnvelope || n > maxEnvelope {
		return 0, nil, fmt.Errorf("%w: envelope of %d bytes", ErrMalformed, n)
	}
	conn = be.Uint32(head[4:])
	if _, err := r.Discard(envelopeOverhead); err != nil {
		return 0, nil, err
	}
	raw = buf[:n-uplinkHeader]
	if _, err := io.ReadFull(r, raw); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return conn, raw, nil
}

// ParseUplink reads a frame of an uplink: those of the outer wire and the
// uplink's own.
func ParseUplink(b []byte) (Frame, error) {
	if len(b) == 0 || Type(b[0]) < TUplinkHello {
		return Parse(b)
	}
	r := reader{b: b[1:]}
	var f Frame
	switch t := Type(b[0]); t {
	case TUplinkHello:
		h := UplinkHello{Version: r.u8()}
		copy(h.Node[:], r.take(len(h.Node)))
		h.Fleet = r.lp(1, maxFleet)
		f = h
	case TUplinkPeer:
		var p UplinkPeer
		copy(p.Hash[:], r.take(len(p.Hash)))
		f = p
	case TUplinkGone:
		f = UplinkGone{}
	case TUplinkPing:
		f = UplinkPing{}
	case TUplinkPong:
		f = UplinkPong{}
	case TUplinkDrain:
		f = UplinkDrain{}
	case TUplinkCredit:
		return ParseCredit(b)
	default:
		return nil, fmt.Errorf("%w: unknown type 0x%02x", ErrMalformed, uint8(t))
	}
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: body of type 0x%02x", ErrMalformed, b[0])
	}
	return f, nil
}
