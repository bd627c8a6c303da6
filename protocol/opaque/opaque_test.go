package opaque

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
)

// world is an account with a record, and the server that keeps it.
type world struct {
	server    ServerParams
	client    ClientParams
	record    RegistrationRecord
	exportKey ExportKey
}

var (
	clientIdentity = []byte("alice, generation 1")
	password       = []byte("correct horse battery staple")
)

func newBlind(t testing.TB) oprf.Blind {
	t.Helper()
	b, err := oprf.NewBlind(rand.Reader)
	must(t, err)
	return b
}

func newKey(t testing.TB) (k oprf.PrivateKey, public []byte) {
	t.Helper()
	k = oprf.PrivateKey(newBlind(t))
	public, err := k.Public()
	must(t, err)
	return k, public
}

func newWorld(t testing.TB) *world {
	t.Helper()
	oprfKey, _ := newKey(t)
	serverKey, serverPublicKey := newKey(t)
	w := &world{
		server: ServerParams{
			ServerIdentity:  []byte("fleet"),
			ServerPublicKey: serverPublicKey,
			Evaluate:        software(oprfKey),
			DH:              software(serverKey),
			Context:         []byte("context"),
		},
		client: ClientParams{
			ClientIdentity:  clientIdentity,
			ServerIdentity:  []byte("fleet"),
			ServerPublicKey: serverPublicKey,
			KSF:             identityKSF,
			Context:         []byte("context"),
		},
	}
	client, request, err := CreateRegistrationRequest(password, newBlind(t))
	must(t, err)
	response, err := CreateRegistrationResponse(t.Context(), w.server.Evaluate, serverPublicKey, request)
	must(t, err)
	w.record, w.exportKey, err = client.FinalizeRegistrationRequest(w.client, response)
	must(t, err)
	return w
}

// ke2 answers a fresh KE1.
func (w *world) ke2(t testing.TB, password []byte) (*ClientLogin, KE2, *AKEState) {
	t.Helper()
	client, ke1, err := GenerateKE1(password, newBlind(t))
	must(t, err)
	ke2, state, err := GenerateKE2(t.Context(), w.server, w.record, clientIdentity, ke1)
	must(t, err)
	return client, ke2, state
}

func TestLogin(t *testing.T) {
	w := newWorld(t)
	client, ke2, state := w.ke2(t, password)
	ke3, clientKey, exportKey, err := client.GenerateKE3(w.client, ke2)
	must(t, err)
	serverKey, err := state.Finish(ke3)
	must(t, err)
	if !clientKey.Equal(serverKey.Key) || clientKey.Equal(secret.Key{}) {
		t.Error("client and server have not the same session key")
	}
	if !exportKey.Equal(w.exportKey.Key) || exportKey.Equal(secret.Key{}) {
		t.Error("login and registration have not the same export key")
	}
}

// A client whose KE2 or KE3 was lost comes back with the same blind: the
// element is the same, everything else is fresh.
func TestLoginAgainWithTheSameBlind(t *testing.T) {
	w := newWorld(t)
	blind := newBlind(t)
	_, first, err := GenerateKE1(password, blind)
	must(t, err)
	client, second, err := GenerateKE1(password, blind)
	must(t, err)
	if first.BlindedMessage != second.BlindedMessage {
		t.Error("the blinded element changed")
	}
	if first.ClientNonce == second.ClientNonce || first.ClientPublicKeyshare == second.ClientPublicKeyshare {
		t.Error("nonce or keyshare were used again")
	}
	ke2, state, err := GenerateKE2(t.Context(), w.server, w.record, clientIdentity, second)
	must(t, err)
	again, stateAgain, err := GenerateKE2(t.Context(), w.server, w.record, clientIdentity, second)
	must(t, err)
	if again.ServerNonce == ke2.ServerNonce || again.ServerPublicKeyshare == ke2.ServerPublicKeyshare ||
		again.CredentialResponse.MaskingNonce == ke2.CredentialResponse.MaskingNonce {
		t.Error("the server's nonces or keyshare were used again")
	}
	ke3, _, _, err := client.GenerateKE3(w.client, ke2)
	must(t, err)
	if _, err := stateAgain.Finish(ke3); !errors.Is(err, ErrAuthentication) {
		t.Errorf("KE3 of another KE2: %v", err)
	}
	_, err = state.Finish(ke3)
	must(t, err)
}

// The failures of a login that both sides have to refuse with one error.
func TestAuthenticationFailsAlike(t *testing.T) {
	_, otherPublic := newKey(t)
	otherKey, _ := newKey(t)
	for name, change := range map[string]func(w *world){
		"wrong password":               func(w *world) {},
		"another record":               func(w *world) { w.record = newWorld(t).record },
		"fake record":                  func(w *world) { w.record.MaskingKey, w.record.Envelope = secret.Key{}, Envelope{} },
		"record's client key":          func(w *world) { copy(w.record.ClientPublicKey[:], otherPublic) },
		"record's masking key":         func(w *world) { w.record.MaskingKey.B[0] ^= 1 },
		"record's envelope nonce":      func(w *world) { w.record.Envelope.Nonce[0] ^= 1 },
		"record's tag":                 func(w *world) { w.record.Envelope.AuthTag[0] ^= 1 },
		"OPRF key":                     func(w *world) { w.server.Evaluate = software(otherKey) },
		"server's static key":          func(w *world) { w.server.DH = software(otherKey) },
		"server's public key":          func(w *world) { w.server.ServerPublicKey = otherPublic },
		"client expects another":       func(w *world) { w.client.ServerPublicKey = otherPublic },
		"context":                      func(w *world) { w.client.Context = []byte("other") },
		"no context":                   func(w *world) { w.client.Context = nil },
		"client identity":              func(w *world) { w.client.ClientIdentity = []byte("alice, generation 2") },
		"server identity":              func(w *world) { w.client.ServerIdentity = []byte("fleet 2") },
		"both, of another server name": func(w *world) { w.client.ServerIdentity, w.server.ServerIdentity = []byte("x"), []byte("x") },
		"identities swapped": func(w *world) {
			w.client.ClientIdentity, w.client.ServerIdentity = w.client.ServerIdentity, w.client.ClientIdentity
		},
		"KSF": func(w *world) {
			w.client.KSF = func(b []byte) ([]byte, error) { return make([]byte, 32), nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			typed := password
			if name == "wrong password" {
				typed = []byte("correct horse battery stable")
			}
			change(w)
			client, ke2, state := w.ke2(t, typed)
			ke3, sessionKey, exportKey, err := client.GenerateKE3(w.client, ke2)
			if err != ErrAuthentication {
				t.Errorf("error %v, want ErrAuthentication itself", err)
			}
			if ke3 != (KE3{}) || sessionKey != (SessionKey{}) || exportKey != (ExportKey{}) {
				t.Error("something came with the error")
			}
			if _, err := state.Finish(ke3); err != ErrAuthentication {
				t.Errorf("server: %v", err)
			}
		})
	}
}

// Each of the 259 bytes of KE2 is covered by a check.
func TestFlippedBitInKE2(t *testing.T) {
	w := newWorld(t)
	blind := newBlind(t)
	for i := range KE2Size {
		client, ke1, err := GenerateKE1(password, blind)
		must(t, err)
		ke2, _, err := GenerateKE2(t.Context(), w.server, w.record, clientIdentity, ke1)
		must(t, err)
		b := ke2.Bytes()
		b[i] ^= 1 << (i % 8)
		flipped, err := ParseKE2(b)
		if errors.Is(err, ErrMessage) {
			continue
		}
		must(t, err)
		if _, _, _, err := client.GenerateKE3(w.client, flipped); err != ErrAuthentication {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

func TestFlippedBitInKE1OrKE3(t *testing.T) {
	w := newWorld(t)
	for i := range KE1Size {
		client, ke1, err := GenerateKE1(password, newBlind(t))
		must(t, err)
		b := ke1.Bytes()
		b[i] ^= 1 << (i % 8)
		flipped, err := ParseKE1(b)
		if errors.Is(err, ErrMessage) {
			continue
		}
		must(t, err)
		ke2, _, err := GenerateKE2(t.Context(), w.server, w.record, clientIdentity, flipped)
		must(t, err)
		if _, _, _, err := client.GenerateKE3(w.client, ke2); err != ErrAuthentication {
			t.Errorf("KE1 byte %d: %v", i, err)
		}
	}
	for i := range KE3Size {
		client, ke2, state := w.ke2(t, password)
		ke3, _, _, err := client.GenerateKE3(w.client, ke2)
		must(t, err)
		ke3.ClientMAC[i] ^= 1 << (i % 8)
		if key, err := state.Finish(ke3); err != ErrAuthentication || key != (SessionKey{}) {
			t.Errorf("KE3 byte %d: %v", i, err)
		}
	}
}

// Attack A3: the server reflects the blinded element.
func TestReflectedElement(t *testing.T) {
	w := newWorld(t)
	reflect := func(_ context.Context, b []byte) ([]byte, error) { return b, nil }
	w.server.Evaluate = reflect
	client, ke2, _ := w.ke2(t, password)
	if _, _, _, err := client.GenerateKE3(w.client, ke2); err != ErrAuthentication {
		t.Errorf("login: %v", err)
	}
	registration, request, err := CreateRegistrationRequest(password, newBlind(t))
	must(t, err)
	response, err := CreateRegistrationResponse(t.Context(), reflect, w.server.ServerPublicKey, request)
	must(t, err)
	if _, _, err := registration.FinalizeRegistrationRequest(w.client, response); err != ErrAuthentication {
		t.Errorf("registration: %v", err)
	}
}

func TestRegistrationWithAnotherServer(t *testing.T) {
	w := newWorld(t)
	_, otherPublic := newKey(t)
	client, request, err := CreateRegistrationRequest(password, newBlind(t))
	must(t, err)
	response, err := CreateRegistrationResponse(t.Context(), w.server.Evaluate, otherPublic, request)
	must(t, err)
	record, exportKey, err := client.FinalizeRegistrationRequest(w.client, response)
	if err != ErrAuthentication || record != (RegistrationRecord{}) || exportKey != (ExportKey{}) {
		t.Errorf("error %v", err)
	}
}

// What is wrong on one's own side is not an authentication failure.
func TestOwnFaultsAreToldApart(t *testing.T) {
	broken := errors.New("broken")
	fail := func(context.Context, []byte) ([]byte, error) { return nil, broken }
	identity := func(context.Context, []byte) ([]byte, error) { return []byte{0}, nil }
	long := make([]byte, 65536)
	clientSide := map[string]struct {
		change func(*ClientParams)
		want   error
	}{
		"KSF":             {func(p *ClientParams) { p.KSF = func([]byte) ([]byte, error) { return nil, broken } }, broken},
		"server key":      {func(p *ClientParams) { p.ServerPublicKey = nil }, oprf.ErrElement},
		"client identity": {func(p *ClientParams) { p.ClientIdentity = long }, ErrIdentity},
		"server identity": {func(p *ClientParams) { p.ServerIdentity = long }, ErrIdentity},
		"context":         {func(p *ClientParams) { p.Context = long }, ErrIdentity},
	}
	for name, c := range clientSide {
		w := newWorld(t)
		client, ke2, _ := w.ke2(t, password)
		c.change(&w.client)
		if _, _, _, err := client.GenerateKE3(w.client, ke2); !errors.Is(err, c.want) || errors.Is(err, ErrAuthentication) {
			t.Errorf("client, %s: %v", name, err)
		}
	}
	serverSide := map[string]struct {
		change func(*ServerParams)
		want   error
	}{
		"Evaluate fails":       {func(p *ServerParams) { p.Evaluate = fail }, broken},
		"DH fails":             {func(p *ServerParams) { p.DH = fail }, broken},
		"Evaluate is identity": {func(p *ServerParams) { p.Evaluate = identity }, oprf.ErrElement},
		"DH is identity":       {func(p *ServerParams) { p.DH = identity }, oprf.ErrElement},
		"public key":           {func(p *ServerParams) { p.ServerPublicKey = []byte{0} }, oprf.ErrElement},
		"server identity":      {func(p *ServerParams) { p.ServerIdentity = long }, ErrIdentity},
		"context":              {func(p *ServerParams) { p.Context = long }, ErrIdentity},
	}
	for name, c := range serverSide {
		w := newWorld(t)
		_, ke1, err := GenerateKE1(password, newBlind(t))
		must(t, err)
		c.change(&w.server)
		ke2, state, err := GenerateKE2(t.Context(), w.server, w.record, clientIdentity, ke1)
		if !errors.Is(err, c.want) || state != nil || ke2 != (KE2{}) {
			t.Errorf("server, %s: %v", name, err)
		}
	}
	if _, _, err := CreateRegistrationRequest(long, newBlind(t)); !errors.Is(err, oprf.ErrInput) {
		t.Errorf("long password: %v", err)
	}
	if _, _, err := GenerateKE1(password, oprf.Blind{}); !errors.Is(err, oprf.ErrScalar) {
		t.Errorf("zero blind: %v", err)
	}
}

func TestSecondUsePanics(t *testing.T) {
	w := newWorld(t)
	client, ke2, state := w.ke2(t, password)
	ke3, _, _, err := client.GenerateKE3(w.client, ke2)
	must(t, err)
	if _, err := state.Finish(KE3{}); err != ErrAuthentication {
		t.Fatal(err)
	}
	registration, request, err := CreateRegistrationRequest(password, newBlind(t))
	must(t, err)
	response, err := CreateRegistrationResponse(t.Context(), w.server.Evaluate, w.server.ServerPublicKey, request)
	must(t, err)
	_, _, err = registration.FinalizeRegistrationRequest(w.client, response)
	must(t, err)
	_, _, wiped := w.ke2(t, password)
	wiped.Wipe()
	for name, f := range map[string]func(){
		"Finish after a failure":      func() { state.Finish(ke3) },
		"Finish after Wipe":           func() { wiped.Finish(KE3{}) },
		"GenerateKE3":                 func() { client.GenerateKE3(w.client, ke2) },
		"FinalizeRegistrationRequest": func() { registration.FinalizeRegistrationRequest(w.client, response) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not panic", name)
				}
			}()
			f()
		}()
	}
}

func TestStatesAreWipedAndRedacted(t *testing.T) {
	w := newWorld(t)
	canary := []byte(strings.Repeat("Q", 32))
	client, ke1, err := GenerateKE1(canary, newBlind(t))
	must(t, err)
	ke2, state, err := GenerateKE2(t.Context(), w.server, w.record, clientIdentity, ke1)
	must(t, err)
	registration, _, err := CreateRegistrationRequest(canary, newBlind(t))
	must(t, err)
	state.sessionKey.B = [32]byte(canary)
	w.record.MaskingKey.B = [32]byte(canary)
	holder := struct {
		C  *ClientLogin
		S  AKEState
		R  ClientRegistration
		Re RegistrationRecord
		K  []any
	}{client, *state, *registration, w.record, []any{ExportKey{state.sessionKey.Key}, state.sessionKey}}
	for _, v := range []any{client, *client, state, *state, registration, *registration, w.record, holder} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			out := fmt.Sprintf(verb, v)
			for _, leak := range []string{"QQ", "81 81", "5151", "0x51, 0x51"} {
				if strings.Contains(out, leak) {
					t.Errorf("%T printed with %s: %s", v, verb, out)
				}
			}
		}
	}
	client.GenerateKE3(w.client, ke2)
	state.Finish(KE3{})
	if !bytes.Equal(client.password, make([]byte, len(client.password))) || client.blind != (oprf.Blind{}) || client.clientSecret != (oprf.PrivateKey{}) {
		t.Error("the client keeps secrets after KE3")
	}
	if state.sessionKey != (SessionKey{}) || state.expectedClientMAC != (secret.Key{}) {
		t.Error("the server keeps secrets after KE3")
	}
	if !bytes.Equal(canary, []byte(strings.Repeat("Q", 32))) {
		t.Error("the caller's password was wiped")
	}
}
