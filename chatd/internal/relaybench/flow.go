//go:build linux

package main

import (
	"bytes"

	"chatvault/protocol/frame"
)

// flow is the vault's part in the flow control of a session (protocol/frame,
// flow.go): a frame is used when its echo could be sent. But for last, it belongs
// to the reader of the uplink that the session is attached to.
type flow struct {
	last uint32 // sequence number; guarded by vault.mu

	requests frame.ReceiveWindow
	replies  frame.SendWindow
	held     [][]byte // echoes that wait for credit
}

// echo appends the echo of a DATA frame, or holds it.
func (f *flow) echo(out []byte, number uint32, id frame.SessionID, raw []byte) []byte {
	f.requests.Take() // chatd's own tests see to it that it keeps to its window
	if !f.replies.Take() {
		f.held = append(f.held, bytes.Clone(raw))
		return out
	}
	return f.use(frame.AppendRawEnvelope(out, number, raw), number, id)
}

// use appends the credit that is due for one frame more.
func (f *flow) use(out []byte, number uint32, id frame.SessionID) []byte {
	if n := f.requests.Use(1); n > 0 {
		var scratch [32]byte
		out = frame.AppendRawEnvelope(out, number, frame.UplinkCredit{Session: id, Frames: n}.Append(scratch[:0]))
	}
	return out
}

// credit appends the echoes that waited for it.
func (f *flow) credit(out []byte, number uint32, c frame.UplinkCredit) []byte {
	f.replies.Credit(c.Frames)
	for len(f.held) > 0 && f.replies.Take() {
		out = f.use(frame.AppendRawEnvelope(out, number, f.held[0]), number, c.Session)
		f.held = f.held[1:]
	}
	return out
}
