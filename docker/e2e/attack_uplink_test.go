package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"chatvault/docker/stack"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// peerHash is what an honest chatd would say of a device.
func peerHash(d device) [32]byte {
	var b []byte
	for _, s := range []string{stack.App, d.sub} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	thumb := d.key.Thumbprint()
	return sha256.Sum256(append(b, thumb[:]...))
}

// TestCorruptedRelay is A2: somebody with chatd's certificate claims every
// account he likes on the uplink, and gets what a stranger gets.
func TestCorruptedRelay(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.registered("anna", "1234")
	anna, mallory := h.device(t, "anna"), h.device(t, "mallory")
	_, ke1 := h.ke1(t, "anna", "1234")
	l := h.uplink(t, peerHash(anna))
	s := h.talk(t, l)
	requests := []vaultmsg.Request{
		vaultmsg.StatusRequest{}, vaultmsg.RecoverStart{KE1: ke1}, vaultmsg.RecoverFinish{}, vaultmsg.Abort{},
		vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeReplace, Generation: 1, Blinded: [33]byte(ke1[:33])},
		vaultmsg.RegisterFinish{KSF: cheap.KSF}, vaultmsg.Delete{Generation: 1},
		vaultmsg.Claim{What: vaultmsg.ClaimDelete, Generation: 1}, vaultmsg.Cancel{},
	}
	nothing := func(when string) {
		t.Helper()
		for _, r := range requests {
			if got := s.ask(r); got.Status != frame.NotAuthorised || got.Charged || got.Left != 0 || got.Body != nil {
				t.Errorf("%s: %T: %+v", when, r, got)
			}
		}
	}
	nothing("without Authorise")

	// What a corrupted relay has: tickets of its clients, their AUTH, and
	// Authorises that it cannot even read. What it has not is a device key.
	stolen := anna.ticket(t)
	honest := h.talk(t, h.as(t, anna))
	genuine := honest.authorise(anna, stolen)
	must(t, honest.ask(genuine))
	nonce := sha256.Sum256([]byte("a nonce of the relay's choice"))
	relayProof, err := ticket.SignRelayAuth(anna.key, nonce, h.relay.addr(), ticket.Hash(stolen))
	if err != nil {
		t.Fatal(err)
	}
	asNonce, err := ticket.SignRelayAuth(anna.key, [32]byte(s.noise.HandshakeHash()), stack.Fleet, ticket.Hash(stolen))
	if err != nil {
		t.Fatal(err)
	}
	own := s.authorise(mallory, stolen)
	own.DeviceKey = mallory.key.Public()
	mixed := s.authorise(mallory, stolen)
	mixed.DeviceKey = anna.key.Public()
	for name, a := range map[string]vaultmsg.Authorise{
		"another account's ticket, own key":     own,
		"another account's key, own proof":      mixed,
		"the proof of another session":          genuine,
		"the proof that was made for the relay": {DeviceKey: anna.key.Public(), Signature: relayProof, Ticket: stolen},
		"a nonce that was this session's h":     {DeviceKey: anna.key.Public(), Signature: asNonce, Ticket: stolen},
		"another device's ticket":               s.authorise(h.device(t, "anna"), stolen),
		"no proof":                              {DeviceKey: anna.key.Public(), Ticket: stolen},
	} {
		if r := s.ask(a); r.Status != frame.NotAuthorised || r.Body != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	nothing("after all of these")

	// Mallory, who is somebody after all, gets what is hers, whosever peer hash
	// she gave; and no change of person later.
	r := must(t, s.ask(s.authorise(mallory, mallory.ticket(t))))
	if st := r.Body.(vaultmsg.AccountStatus); st.State != vaultmsg.StateNone || r.Left != 0 {
		t.Errorf("mallory's status: %+v", st)
	}
	if r := s.ask(vaultmsg.RecoverStart{KE1: ke1}); r.Status != frame.NotRegistered {
		t.Errorf("mallory's recovery: %v", r.Status)
	}
	// Now a genuine Authorise of anna's device, for this very session: as if she
	// could be made to sign it. The session stays mallory's.
	if r := s.ask(s.authorise(anna, stolen)); r.Status != frame.NotAuthorised {
		t.Errorf("a session that changes its account: %v", r.Status)
	}
	if st, _ := s.status(); st.State != vaultmsg.StateNone {
		t.Errorf("after that: %+v", st)
	}
	h.untouched(t, "anna")
}

// TestCorruptedRelayInTheMiddle: it knows the id of a phone's session and claims
// to be where that phone is now. It can interrupt; it cannot speak.
func TestCorruptedRelayInTheMiddle(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.registered("anna", "1234")
	anna := h.device(t, "anna")
	w := h.as(t, anna)
	s := h.talk(t, w)
	must(t, s.ask(s.authorise(anna, anna.ticket(t))))
	_, ke1 := h.ke1(t, "anna", "1234")
	s.seal(vaultmsg.EncodeRequest(vaultmsg.RecoverStart{KE1: ke1}))
	request := s.last

	stranger := h.uplink(t, peerHash(h.device(t, "mallory")))
	stranger.send(frame.Attach{Tag: 1, Session: s.id})
	if r := expect[frame.Refuse](t, stranger); r.Status != frame.NoSession {
		t.Errorf("ATTACH as another peer: %+v", r)
	}
	stranger.send(request)
	if c := expect[frame.Close](t, stranger); c.Status != frame.NoSession {
		t.Errorf("DATA on a session that is not attached: %+v", c)
	}
	stranger.send(frame.Close{Session: s.id}) // none of its business

	thief := h.uplink(t, peerHash(anna))
	thief.send(frame.Attach{Tag: 1, Session: s.id})
	expect[frame.Attach](t, thief)
	if c := expect[frame.Close](t, w); c.Status != frame.Replaced {
		t.Errorf("the phone is told: %+v", c)
	}
	for _, bad := range []frame.Data{
		{Session: s.id, Sequence: 2, Payload: make([]byte, 528)},
		{Session: s.id, Sequence: 1, Payload: make([]byte, 528)},
		{Session: s.id, Sequence: 2, Payload: s.reply.Payload},
	} {
		thief.send(bad)
	}
	// The phone's own request, held back and let through by the thief, is all
	// that he can do; its reply waits for the phone, who attaches again.
	thief.send(request)
	stolen := expect[frame.Data](t, thief)
	if stolen.Sequence != 2 {
		t.Fatalf("%+v", stolen)
	}
	w.send(frame.Attach{Tag: 2, Session: s.id})
	expect[frame.Attach](t, w)
	w.send(request)
	if r := must(t, s.answer()); r.Left != 9 {
		t.Errorf("KE2: %+v", r)
	}
	if c := expect[frame.Close](t, thief); c.Status != frame.Replaced {
		t.Errorf("the thief is told: %+v", c)
	}
	// An uplink that breaks the protocol ends; the session does not.
	thief.send(frame.Attach{Tag: 2, Session: s.id})
	expect[frame.Attach](t, thief)
	thief.send(frame.Ready{})
	ends(t, "a READY of a phone", thief.conn)
	w = h.as(t, anna)
	w.send(frame.Attach{Tag: 3, Session: s.id})
	expect[frame.Attach](t, w)
	s.c = w
	if r := s.ask(vaultmsg.Abort{}); r.Status != frame.WrongPassword || r.Left != 9 {
		t.Errorf("abort: %+v", r)
	}
}

// TestUplinkNeedsChatd: neither a vault's certificate nor none gets an uplink.
func TestUplinkNeedsChatd(t *testing.T) {
	t.Parallel()
	h := start(t)
	refused := func(name string, conn *tls.Conn, err error) {
		t.Helper()
		if err != nil {
			return
		}
		// With TLS 1.3 the client learns of it when it first reads.
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: read %d bytes, %v", name, n, err)
		}
	}
	conn, err := h.dialVault(t, "vaultd")
	refused("a vault's certificate", conn, err)
	conn, err = tls.Dial("tcp", h.VaultAddr(), &tls.Config{InsecureSkipVerify: true})
	refused("no certificate", conn, err)
	conn, err = tls.Dial("tcp", h.VaultAddr(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	refused("TLS 1.2", conn, err)

	for name, f := range map[string]frame.Frame{
		"OPEN without a peer":  frame.Open{Tag: 1, Payload: []byte{1}},
		"a vault's drain":      frame.UplinkDrain{},
		"HELLO":                frame.Hello{Version: 1},
		"a vault's own hello":  frame.UplinkHello{Version: 1, Fleet: stack.Fleet},
		"a ping of a client":   frame.UplinkPing{},
		"AUTH":                 frame.Auth{Host: "h", Ticket: "t"},
		"an attach, unpeered":  frame.Attach{},
		"a refusal of a phone": frame.Refuse{},
	} {
		conn, err := h.dialVault(t, "chatd")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(frame.AppendEnvelope(nil, 7, f)); err != nil {
			t.Fatal(err)
		}
		ends(t, name, conn)
	}
	h.talk(t, h.as(t, h.device(t, "anna"))) // chatd's own uplink stands
}

// soon is long before vaultd would end a silent uplink.
const soon = 10 * time.Second

// ends waits for vaultd to end an uplink soon.
func ends(t *testing.T, name string, conn *tls.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the uplink goes on", name)
	}
}
