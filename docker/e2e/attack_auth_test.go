package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/docker/stack"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// badTickets are tickets for a device that nobody may accept, each with what
// chatd and what vaultd says to it.
func badTickets(t *testing.T, h *house, d device) map[string]struct {
	ticket       string
	relay, vault frame.Status
} {
	t.Helper()
	now := time.Now().Unix()
	good := d.claims()
	none := encodeJWT(t, with(es256, "alg", "none"), good)
	public, err := os.ReadFile(filepath.Join(h.Dir, "issuer.pem"))
	if err != nil {
		t.Fatal(err)
	}
	hs256 := encodeJWT(t, with(es256, "alg", "HS256"), good)
	mac := hmac.New(sha256.New, public)
	mac.Write([]byte(hs256))
	honest := h.forge(t, es256, good)
	type row = struct {
		ticket       string
		relay, vault frame.Status
	}
	no := frame.NotAuthorised
	return map[string]row{
		"expired":                 {h.forge(t, es256, with(with(good, "iat", now-600), "exp", now-1)), frame.TicketExpired, frame.TicketExpired},
		"without exp":             {h.forge(t, es256, with(good, "exp", nil)), no, no},
		"exp as text":             {h.forge(t, es256, with(good, "exp", "9999999999")), no, no},
		"EXP instead of exp":      {h.forge(t, es256, with(with(good, "exp", nil), "EXP", now+600)), no, no},
		"for too long":            {h.forge(t, es256, with(good, "exp", now+3601+60)), no, no},
		"future-dated":            {h.forge(t, es256, with(with(good, "iat", now+300), "exp", now+900)), no, no},
		"not before a later time": {h.forge(t, es256, with(good, "nbf", now+300)), no, no},
		"for another fleet":       {h.forge(t, es256, with(good, "aud", "other")), no, frame.WrongFleet},
		"without aud":             {h.forge(t, es256, with(good, "aud", nil)), no, frame.WrongFleet},
		"without cnf":             {h.forge(t, es256, with(good, "cnf", nil)), no, no},
		"of another issuer":       {h.forge(t, es256, with(good, "iss", "https://evil.dev")), no, no},
		"without sub":             {h.forge(t, es256, with(good, "sub", nil)), no, no},
		"of another type":         {h.forge(t, with(es256, "typ", "JWT"), good), no, no},
		"with a crit header":      {h.forge(t, with(es256, "crit", []string{"b64"}), good), no, no},
		"with a jwk header":       {h.forge(t, with(es256, "jwk", map[string]any{"kty": "EC"}), good), no, no},
		"alg none":                {none + ".", no, no},
		"alg none, signed":        {none + honest[len(honest)-87:], no, no},
		"HMAC by the public key":  {hs256 + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), no, no},
		"with other claims":       {encodeJWT(t, es256, with(good, "sub", "somebody else")) + honest[len(honest)-87:], no, no},
		"not a JWT":               {"ticket, please", no, no},
	}
}

// TestAuthAttacks goes through AUTH and through the inner AUTHORISE with the
// same bad tickets (A2, A15): each side refuses by itself.
func TestAuthAttacks(t *testing.T) {
	t.Parallel()
	h := start(t)
	d := h.device(t, "anna")
	t.Run("tickets", func(t *testing.T) {
		s := h.talk(t, h.as(t, d))
		for name, row := range badTickets(t, h, d) {
			w := h.wire(t)
			w.send(w.auth(d, row.ticket))
			code, refused := w.closed()
			if refused.Refused != frame.TAuth || refused.Status != row.relay || code != row.relay.CloseCode() {
				t.Errorf("chatd, a ticket %s: %v, close code %d; want %v", name, refused.Status, code, row.relay)
			}
			// The session itself takes the next ticket: a bad one changes nothing.
			if r := s.ask(s.authorise(d, row.ticket)); r.Status != row.vault {
				t.Errorf("vaultd, a ticket %s: %v, want %v", name, r.Status, row.vault)
			}
		}
		must(t, s.ask(s.authorise(d, d.ticket(t))))
		// The forge itself makes tickets that are accepted, or all of this
		// would prove nothing.
		w := h.wire(t)
		w.send(w.auth(d, h.forge(t, es256, d.claims())))
		expect[frame.Ready](t, w)
	})
	t.Run("proofs", func(t *testing.T) { authProofs(t, h, d) })
	t.Run("renewal", func(t *testing.T) {
		w := h.as(t, d)
		other := h.device(t, "bert")
		second := h.device(t, "anna")
		for name, a := range map[string]frame.Auth{
			"another account": w.auth(other, other.ticket(t)),
			"another device":  w.auth(second, second.ticket(t)),
			"expired":         w.auth(d, badTickets(t, h, d)["expired"].ticket),
		} {
			w.send(a)
			if r := expect[frame.Refuse](t, w); r.Refused != frame.TAuth || r.Status == frame.OK {
				t.Errorf("a later AUTH, %s: %v", name, r.Status)
			}
		}
		h.talk(t, w) // the connection goes on as it was
	})
}

// authProofs spoils the proof of possession.
func authProofs(t *testing.T, h *house, d device) {
	recorded := h.wire(t)
	elsewhere := recorded.auth(d, d.ticket(t))
	recorded.send(elsewhere)
	expect[frame.Ready](t, recorded)

	thief := h.device(t, "anna")
	for name, spoil := range map[string]func(*wire) (frame.Auth, frame.Status){
		"replayed on another connection": func(*wire) (frame.Auth, frame.Status) { return elsewhere, frame.NotAuthorised },
		"another device's ticket": func(w *wire) (frame.Auth, frame.Status) {
			return w.auth(thief, d.ticket(t)), frame.NotAuthorised
		},
		"another device's ticket and key": func(w *wire) (frame.Auth, frame.Status) {
			a := w.auth(thief, d.ticket(t))
			a.DeviceKey = d.key.Public()
			return a, frame.NotAuthorised
		},
		"another ticket than was signed": func(w *wire) (frame.Auth, frame.Status) {
			a := w.auth(d, d.ticket(t))
			a.Ticket = h.forge(t, es256, d.claims())
			return a, frame.NotAuthorised
		},
		"the vault's proof": func(w *wire) (frame.Auth, frame.Status) {
			a := w.auth(d, d.ticket(t))
			a.Signature, _ = ticket.SignVaultAuth(d.key, stack.Fleet, w.hello.Nonce, ticket.Hash(a.Ticket))
			return a, frame.NotAuthorised
		},
		"r and s of zero": func(w *wire) (frame.Auth, frame.Status) {
			a := w.auth(d, d.ticket(t))
			a.Signature = [64]byte{}
			return a, frame.NotAuthorised
		},
		"a key off the curve": func(w *wire) (frame.Auth, frame.Status) {
			a := w.auth(d, d.ticket(t))
			a.DeviceKey[64] ^= 1
			return a, frame.NotAuthorised
		},
		"a key in hybrid form": func(w *wire) (frame.Auth, frame.Status) {
			a := w.auth(d, d.ticket(t))
			a.DeviceKey[0] = 6 | a.DeviceKey[64]&1
			return a, frame.NotAuthorised
		},
		"another host": func(w *wire) (frame.Auth, frame.Status) {
			a := w.auth(d, d.ticket(t))
			a.Host = "relay.evil.dev"
			a.Signature, _ = ticket.SignRelayAuth(d.key, w.hello.Nonce, a.Host, ticket.Hash(a.Ticket))
			return a, frame.WrongHost
		},
	} {
		w := h.wire(t)
		a, want := spoil(w)
		w.send(a)
		if code, refused := w.closed(); refused.Status != want || code != want.CloseCode() {
			t.Errorf("%s: %v, close code %d; want %v", name, refused.Status, code, want)
		}
	}
}

// TestAuthLate: whoever says nothing is shown the door, and so is whoever says
// something else first.
func TestAuthLate(t *testing.T) {
	t.Parallel()
	h := start(t, func(o *stack.Options) { o.ChatdArgs = append(o.ChatdArgs, "--auth-timeout", "3s") })
	d := h.device(t, "anna")
	w, begin := h.wire(t), time.Now()
	code, refused := w.closed()
	if refused.Status != frame.AuthTimeout || code != frame.AuthTimeout.CloseCode() {
		t.Errorf("silence: %v, close code %d", refused.Status, code)
	}
	if took := time.Since(begin); took < 2900*time.Millisecond || took > 9*time.Second {
		t.Errorf("--auth-timeout 3s took %v", took)
	}
	// Pings keep nobody alive.
	w = h.wire(t)
	for range 20 {
		if w.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)) != nil {
			break
		}
	}
	if code, refused = w.closed(); refused.Status != frame.AuthTimeout || code != frame.AuthTimeout.CloseCode() {
		t.Errorf("pings: %v, close code %d", refused.Status, code)
	}
	// In time it works, and outlives the timeout.
	w = h.as(t, d)
	timer := time.NewTimer(4 * time.Second)
	defer timer.Stop()
	<-timer.C
	h.talk(t, w)
}

// TestFrameAttacks: what is no frame, or not the client's to say, ends the
// connection with the reason, before AUTH and after it.
func TestFrameAttacks(t *testing.T) {
	t.Parallel()
	h := start(t)
	d := h.device(t, "anna")
	session := frame.SessionID{1, 2, 3}
	big := frame.Data{Session: session, Sequence: 1, Payload: make([]byte, frame.MaxPayload)}.Append(nil)
	open := frame.Open{Tag: 9, Payload: []byte{1}}.Append(nil)
	binary := websocket.BinaryMessage
	for name, row := range map[string]struct {
		kind int
		b    []byte
	}{
		"text":               {websocket.TextMessage, open},
		"empty":              {binary, nil},
		"unknown type":       {binary, []byte{0x0b}},
		"type 0":             {binary, []byte{0}},
		"an uplink's frame":  {binary, frame.UplinkPeer{}.Append(nil)},
		"the uplink's drain": {binary, frame.UplinkDrain{}.Append(nil)},
		"OPEN, empty":        {binary, open[:5]},
		"DATA, cut short":    {binary, big[:24]},
		"DATA, empty":        {binary, big[:25]},
		"ATTACH, cut short":  {binary, frame.Attach{Session: session}.Append(nil)[:24]},
		"ATTACH, too long":   {binary, append(frame.Attach{Session: session}.Append(nil), 0)},
		"CLOSE, too long":    {binary, append(frame.Close{Session: session}.Append(nil), 0)},
		"HELLO":              {binary, frame.Hello{Version: 1}.Append(nil)},
		"READY":              {binary, frame.Ready{}.Append(nil)},
		"NOTICE":             {binary, frame.Notice{}.Append(nil)},
		"GOAWAY":             {binary, frame.Goaway{}.Append(nil)},
		"REFUSE":             {binary, frame.Refuse{}.Append(nil)},
	} {
		w := h.as(t, d)
		w.raw(row.kind, row.b)
		if code, refused := w.closed(); refused.Status != frame.Malformed || code != frame.Malformed.CloseCode() {
			t.Errorf("%s, after AUTH: %v, close code %d", name, refused.Status, code)
		}
		w = h.wire(t)
		w.raw(row.kind, row.b)
		code, refused := w.closed()
		if refused.Status != frame.Malformed && refused.Status != frame.NotAuthorised || code != refused.Status.CloseCode() {
			t.Errorf("%s, before AUTH: %v, close code %d", name, refused.Status, code)
		}
	}
	for name, w := range map[string]*wire{"before": h.wire(t), "after": h.as(t, d)} {
		w.raw(binary, append(big, 0))
		if code, _ := w.closed(); code != websocket.CloseMessageTooBig {
			t.Errorf("oversized, %s AUTH: close code %d", name, code)
		}
	}
	// A full frame for a session that is not there is no offence.
	w := h.as(t, d)
	w.raw(binary, big)
	if r := expect[frame.Refuse](t, w); r.Status != frame.NoSession || r.Session != session {
		t.Errorf("DATA to nowhere: %+v", r)
	}
	w.send(frame.Close{Session: session})
	if r := expect[frame.Refuse](t, w); r.Status != frame.NoSession {
		t.Errorf("CLOSE of nothing: %+v", r)
	}
	// A frame in two fragments is one message; a fragment of a frame is none.
	truncated := frame.Auth{Host: "h", Ticket: "t"}.Append(nil)
	w = h.wire(t)
	w.raw(binary, truncated[:len(truncated)-1])
	if code, refused := w.closed(); refused.Status != frame.Malformed || code != frame.Malformed.CloseCode() {
		t.Errorf("AUTH, cut short: %v, close code %d", refused.Status, code)
	}
}
