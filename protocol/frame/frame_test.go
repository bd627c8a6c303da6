package frame_test

import (
	"bufio"
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"chatvault/protocol/frame"
)

// samples holds one frame of every type, at both ends of its limits.
func samples() []frame.Frame {
	var sid frame.SessionID
	copy(sid[:], "nodeABCDEFGHIJKLMNOP")
	return []frame.Frame{
		frame.Hello{Version: 1, Nonce: [32]byte{1, 31: 2}, BundleEpoch: 7},
		frame.Auth{DeviceKey: [65]byte{4}, Signature: [64]byte{9}, Host: "h", Ticket: "t"},
		frame.Auth{Host: strings.Repeat("h", frame.MaxHost), Ticket: strings.Repeat("t", frame.MaxTicket)},
		frame.Ready{TicketEnds: 1 << 40, PingMillis: 30000},
		frame.Open{Tag: 3, Payload: []byte{0}},
		frame.Attach{Tag: 4, Session: sid},
		frame.Data{Session: sid, Sequence: 5, Payload: []byte("x")},
		frame.Data{Session: sid, Sequence: 1<<32 - 1, Payload: make([]byte, frame.MaxPayload)},
		frame.Close{Session: sid, Status: frame.SessionEnded},
		frame.Notice{},
		frame.Goaway{Status: frame.Draining, ReconnectMillis: 1500},
		frame.Refuse{Refused: frame.TOpen, Tag: 8, Session: sid, Status: frame.RateLimited, RetryMillis: 9, Limit: "OpensPerAccount"},
		frame.UplinkHello{Version: 1, Node: frame.NodeID{1, 2, 3, 4}, Fleet: "demo"},
		frame.UplinkPeer{Hash: [32]byte{1, 31: 9}},
		frame.UplinkGone{}, frame.UplinkPing{}, frame.UplinkPong{}, frame.UplinkDrain{},
		frame.UplinkCredit{Session: sid, Frames: 1}, frame.UplinkCredit{Session: sid, Frames: frame.Window},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, f := range samples() {
		b := f.Append(nil)
		got, err := frame.ParseUplink(b)
		if err != nil {
			t.Fatalf("%T: %v", f, err)
		}
		if !reflect.DeepEqual(got, f) {
			t.Errorf("%T: got %+v, want %+v", f, got, f)
		}
		if len(b) > frame.MaxFrame {
			t.Errorf("%T: %d bytes, more than MaxFrame", f, len(b))
		}
	}
}

func TestEveryOtherLengthIsRefused(t *testing.T) {
	for _, f := range samples() {
		b := f.Append(nil)
		variable := f.Type() == frame.TOpen || f.Type() == frame.TData
		for n := range len(b) {
			if got, err := frame.ParseUplink(b[:n]); err == nil && !variable {
				t.Fatalf("%T cut to %d of %d bytes parsed as %+v", f, n, len(b), got)
			} else if err != nil && !errors.Is(err, frame.ErrMalformed) {
				t.Fatalf("%T cut to %d: error %v is not ErrMalformed", f, n, err)
			}
		}
		if _, err := frame.ParseUplink(append(b, 0)); err == nil && (!variable || len(b) == frame.MaxFrame) {
			t.Errorf("%T with a byte more was accepted", f)
		}
	}
}

func TestUnknownAndUplinkTypesAreRefusedOutside(t *testing.T) {
	for typ := range 256 {
		known := typ >= 0x01 && typ <= 0x0a
		if _, err := frame.Parse([]byte{byte(typ)}); err == nil && frame.Type(typ) != frame.TNotice {
			t.Errorf("type 0x%02x without a body was accepted", typ)
		} else if err != nil && !known && !strings.Contains(err.Error(), "unknown type") {
			t.Errorf("type 0x%02x: %v", typ, err)
		}
	}
}

func TestParseDataAgreesAndDoesNotAllocate(t *testing.T) {
	d := frame.Data{Session: frame.SessionID{1, 19: 2}, Sequence: 77, Payload: bytes.Repeat([]byte{5}, 256)}
	b := d.Append(nil)
	got, err := frame.ParseData(b)
	if err != nil || !reflect.DeepEqual(got, d) {
		t.Fatalf("got %+v, %v", got, err)
	}
	out := make([]byte, 0, frame.MaxEnvelope)
	allocs := testing.AllocsPerRun(100, func() {
		d, err := frame.ParseData(b)
		if err != nil || d.Session.Node() == (frame.NodeID{}) {
			t.Fatal("not parsed")
		}
		out = frame.AppendRawEnvelope(out[:0], 9, b)
	})
	if allocs != 0 {
		t.Errorf("%v allocations per relayed frame", allocs)
	}
	if _, err := frame.ParseData(frame.Notice{}.Append(nil)); err == nil {
		t.Error("a NOTICE parsed as DATA")
	}
}

func TestEnvelopes(t *testing.T) {
	var stream []byte
	for i, f := range samples() {
		if i%2 == 0 {
			stream = frame.AppendEnvelope(stream, uint32(i), f)
		} else {
			stream = frame.AppendRawEnvelope(stream, uint32(i), f.Append(nil))
		}
	}
	r := bufio.NewReader(bytes.NewReader(stream))
	buf := make([]byte, frame.MaxFrame)
	for i, want := range samples() {
		conn, raw, err := frame.ReadEnvelope(r, buf)
		if err != nil || conn != uint32(i) {
			t.Fatalf("envelope %d: conn %d, %v", i, conn, err)
		}
		if got, err := frame.ParseUplink(raw); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("envelope %d: %+v, %v", i, got, err)
		}
	}
	if _, _, err := frame.ReadEnvelope(r, buf); err == nil || err.Error() != "EOF" {
		t.Errorf("after the last envelope: %v", err)
	}
	for n := 1; n < 20; n++ {
		if _, _, err := frame.ReadEnvelope(bufio.NewReader(bytes.NewReader(stream[:n])), buf); err == nil || err.Error() == "EOF" {
			t.Errorf("an envelope cut to %d bytes: %v", n, err)
		}
	}
	for _, head := range [][]byte{{0, 0, 0, 4, 0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}} {
		if _, _, err := frame.ReadEnvelope(bufio.NewReader(bytes.NewReader(head)), buf); !errors.Is(err, frame.ErrMalformed) {
			t.Errorf("length %x: %v", head[:4], err)
		}
	}
}

func TestStatusTable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range frame.Statuses() {
		if seen[s.String()] || s.Meaning() == "" {
			t.Errorf("status %d: name %q twice, or no meaning", s, s)
		}
		seen[s.String()] = true
		if c := s.CloseCode(); c < 4000 || c > 4999 || (c < 4500) != s.Retryable() {
			t.Errorf("%s: close code %d", s, c)
		}
	}
	if frame.Status(999).Known() || frame.Status(999).String() != "status_999" {
		t.Error("an unknown status is not told as one")
	}
}

func TestMisusePanics(t *testing.T) {
	for name, f := range map[string]frame.Frame{
		"empty DATA":                frame.Data{},
		"oversize OPEN":             frame.Open{Payload: make([]byte, frame.MaxPayload+1)},
		"no ticket":                 frame.Auth{Host: "h"},
		"long limit":                frame.Refuse{Limit: strings.Repeat("x", frame.MaxLimit+1)},
		"no credit":                 frame.UplinkCredit{},
		"more credit than a window": frame.UplinkCredit{Frames: frame.Window + 1},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was encoded", name)
				}
			}()
			f.Append(nil)
		}()
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := frame.ParseUplink(b)
		if err != nil {
			if !errors.Is(err, frame.ErrMalformed) {
				t.Fatalf("error %v is not ErrMalformed", err)
			}
			return
		}
		if again := got.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x parsed and re-encodes as %x", b, again)
		}
	})
}
