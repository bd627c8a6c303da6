package notify

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/count"
	"chatvault/protocol/secret"
)

var epoch = time.Unix(1_700_000_000, 0)

var keyOne, keyTwo = secret.Bytes(bytes.Repeat([]byte{1}, 32)), secret.Bytes(bytes.Repeat([]byte{2}, 24))

// app is a backend that answers as it is told.
type app struct {
	*httptest.Server
	got chan request

	mu      sync.Mutex
	answers []int // the last one for ever
}

type request struct {
	header http.Header
	body   string
}

func newApp(t *testing.T, tls bool, answers ...int) *app {
	a := &app{got: make(chan request, 64), answers: answers}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/doorbell" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		a.mu.Lock()
		status := a.answers[0]
		if len(a.answers) > 1 {
			a.answers = a.answers[1:]
		}
		a.mu.Unlock()
		if status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
		a.got <- request{r.Header, string(body)}
	}))
	if tls {
		a.StartTLS()
	} else {
		a.Start()
	}
	t.Cleanup(a.Close)
	return a
}

type webhook struct {
	*Webhook
	counts *count.Set
	stop   func()
}

func run(t *testing.T, a *app, fake *clock.Fake, keys ...secret.Bytes) webhook {
	w := webhook{counts: new(count.Set)}
	var roots *x509.CertPool
	if cert := a.Certificate(); cert != nil {
		roots = x509.NewCertPool()
		roots.AddCert(cert)
	}
	w.Webhook = New(Config{URL: a.URL + "/doorbell", Keys: keys, Roots: roots, Clock: fake, Count: w.counts.Add})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	w.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(w.stop)
	return w
}

// until polls what arrives by itself, and lets time pass meanwhile.
func until(t *testing.T, what string, fake *clock.Fake, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
			fake.Advance(250 * time.Millisecond)
		case <-late:
			t.Fatalf("it never happened: %s", what)
		}
	}
}

func TestANoticeIsSignedAndSaysNothing(t *testing.T) {
	for _, tls := range []bool{false, true} {
		a := newApp(t, tls, 204)
		w := run(t, a, clock.NewFake(epoch), keyOne, keyTwo)
		w.Notify(`user-3f9a"é`)
		got := <-a.got
		w.stop()
		if want := `{"type":"chatvault.notice","timestamp":"2023-11-14T22:13:20Z","data":{"sub":"user-3f9a\"é"}}`; got.body != want {
			t.Errorf("body %s", got.body)
		}
		id, at := got.header.Get("webhook-id"), got.header.Get("webhook-timestamp")
		if !strings.HasPrefix(id, "msg_") || len(id) != 30 || at != "1700000000" || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("header %v", got.header)
		}
		one, two := sign([]secret.Bytes{keyOne}, id, at, []byte(got.body)), sign([]secret.Bytes{keyTwo}, id, at, []byte(got.body))
		if got.header.Get("webhook-signature") != one+" "+two || one == two {
			t.Errorf("signature %q, want %q and %q", got.header.Get("webhook-signature"), one, two)
		}
		if w.counts.Get(Delivered) != 1 {
			t.Errorf("counted %v", w.counts.All())
		}
	}
}

// The example of Standard Webhooks 1.0.0's documentation, and the one of
// protocol/docs/integrate.md, which its own tests verify.
func TestSignatureVectors(t *testing.T) {
	for _, c := range []struct{ key, id, at, body, want string }{
		{
			"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`,
			"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
		{
			"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "msg_AFK2NX7OY5UKGSDDFYPB2CKPMR", "1795305600",
			`{"type":"chatvault.notice","timestamp":"2026-11-22T00:00:00Z","data":{"sub":"user-3f9a"}}`,
			"v1,IPp/e379IhwlCJfbe/otUC0KMhqHbokyN+rZR3qiYGA=",
		},
	} {
		keys, err := ParseKeys(secret.Bytes(c.key))
		if err != nil {
			t.Fatal(err)
		}
		if got := sign(keys, c.id, c.at, []byte(c.body)); got != c.want {
			t.Errorf("%s: %s, want %s", c.id, got, c.want)
		}
	}
}

func TestATryThatFailedIsRepeatedUnderTheSameId(t *testing.T) {
	a := newApp(t, false, 503, 429, 200)
	fake := clock.NewFake(epoch)
	w := run(t, a, fake, keyOne)
	w.Notify("anna")
	until(t, "delivered", fake, func() bool { return w.counts.Get(Delivered) == 1 })
	first, second, third := <-a.got, <-a.got, <-a.got
	if id := first.header.Get("webhook-id"); second.header.Get("webhook-id") != id || third.header.Get("webhook-id") != id {
		t.Error("a repeat has another id")
	}
	if first.body != third.body || first.header.Get("webhook-timestamp") == third.header.Get("webhook-timestamp") {
		t.Errorf("the first %v %s\nthe third %v %s", first.header, first.body, third.header, third.body)
	}
	if passed := fake.Now().Sub(epoch); passed < 9*pause/4 || w.counts.Get(Retried) != 2 {
		t.Errorf("three tries in %v, counted %v", passed, w.counts.All())
	}
}

// What waits for its next try is signed with the keys of then: those of before
// may be why it was refused.
func TestKeysChange(t *testing.T) {
	a := newApp(t, false, 503, 200)
	fake := clock.NewFake(epoch)
	w := run(t, a, fake, keyOne)
	w.Notify("anna")
	first := <-a.got
	w.SetKeys([]secret.Bytes{keyTwo})
	until(t, "delivered", fake, func() bool { return w.counts.Get(Delivered) == 1 })
	for _, try := range []struct {
		request
		key secret.Bytes
	}{{first, keyOne}, {<-a.got, keyTwo}} {
		want := sign([]secret.Bytes{try.key}, try.header.Get("webhook-id"), try.header.Get("webhook-timestamp"), []byte(try.body))
		if got := try.header.Get("webhook-signature"); got != want {
			t.Errorf("signed %q, want %q", got, want)
		}
	}
}

func TestWhatIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		answer int
		want   string
		tries  int
	}{
		"unknown account": {404, Refused, 1},
		"bad signature":   {401, Refused, 1},
		"a redirect":      {302, Refused, 1},
		"down for long":   {500, Failed, tries},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, false, c.answer)
			fake := clock.NewFake(epoch)
			w := run(t, a, fake, keyOne)
			w.Notify("anna")
			until(t, c.want, fake, func() bool { return w.counts.Get(c.want) == 1 })
			if len(a.got) != c.tries || w.counts.Get(Retried) != int64(c.tries-1) || w.counts.Get(Delivered) != 0 {
				t.Errorf("%d tries, counted %v", len(a.got), w.counts.All())
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		a := newApp(t, false, 200)
		a.Close()
		fake := clock.NewFake(epoch)
		w := run(t, a, fake, keyOne)
		w.Notify("anna")
		until(t, "failed", fake, func() bool { return w.counts.Get(Failed) == 1 })
	})
	t.Run("a certificate of somebody else", func(t *testing.T) {
		a := newApp(t, true, 200)
		fake := clock.NewFake(epoch)
		w := run(t, a, fake, keyOne)
		w.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = x509.NewCertPool()
		w.Notify("anna")
		until(t, "failed", fake, func() bool { return w.counts.Get(Failed) == 1 })
		if len(a.got) != 0 {
			t.Error("it was told whose doorbell rang")
		}
	})
}

func TestTheQueueIsBoundedAndJoinsTheSameAccount(t *testing.T) {
	counts := new(count.Set)
	w := New(Config{URL: "http://127.0.0.1:1", Clock: clock.NewFake(epoch), Count: counts.Add}) // does not run
	for i := range maxQueue + 5 {
		w.Notify(fmt.Sprint(i))
	}
	w.Notify("7")
	if len(w.queue) != maxQueue || counts.Get(Dropped) != 5 || counts.Get(Joined) != 1 {
		t.Errorf("%d wait, counted %v", len(w.queue), counts.All())
	}
}

func TestWhatWaitsAtTheEndIsStillPosted(t *testing.T) {
	a := newApp(t, false, 200)
	fake := clock.NewFake(epoch)
	counts := new(count.Set)
	w := New(Config{URL: a.URL + "/doorbell", Keys: []secret.Bytes{keyOne}, Clock: fake, Count: counts.Add})
	for i := range 20 {
		w.Notify(fmt.Sprint(i))
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	w.Run(over)
	if counts.Get(Delivered) != 20 {
		t.Errorf("counted %v", counts.All())
	}
	w.Notify("late")
	if counts.Get(Dropped) != 1 {
		t.Errorf("after the end: %v", counts.All())
	}

	// A backend that does not answer well does not hold the end up.
	a = newApp(t, false, 503)
	stuck := run(t, a, fake, keyOne)
	for i := range 20 {
		stuck.Notify(fmt.Sprint(i))
	}
	<-a.got
	ended := make(chan struct{})
	go func() { defer close(ended); stuck.stop() }()
	until(t, "it ended", fake, func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	if all := stuck.counts.All(); all[Dropped]+all[Failed] != 20 {
		t.Errorf("counted %v", all)
	}
}

func TestCheckURL(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://app.example/doorbell": true, "https://app.example:8443/?a=b": true,
		"http://127.0.0.1:8080/x": true, "http://[::1]/x": true, "http://localhost/x": true,
		"http://app.example/x": false, "http://127.0.0.1.example/x": false, "http://10.0.0.1/": false,
		"https://u:hunter2@app.example/": false, "https://": false, "app.example": false, "ftp://localhost/": false,
		"https://app.example/#x": false, "": false, "https://:443/": false, "http://%zz:hunter2@": false,
	} {
		err := CheckURL(text)
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error repeats it: %v", text, err)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
	f.Add("whsec_AAAA")
	f.Add("")
	f.Add("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	f.Fuzz(func(t *testing.T, file string) {
		keys, err := ParseKeys(secret.Bytes(file))
		if err != nil {
			return
		}
		if len(keys) < 1 || len(keys) > maxKeys {
			t.Fatalf("%d keys", len(keys))
		}
		for _, key := range keys {
			if len(key) < minKey || len(key) > maxKey {
				t.Errorf("a key of %d bytes", len(key))
			}
		}
	})
}

// FuzzSub: whatever an issuer puts into sub arrives as it is. It comes out of JSON,
// which has valid UTF-8 only.
func FuzzSub(f *testing.F) {
	f.Add("user-3f9a")
	f.Add(`"},"more":{"`)
	f.Fuzz(func(t *testing.T, sub string) {
		if !utf8.ValidString(sub) {
			return
		}
		b, err := json.Marshal(notice{Type, "", data{sub}})
		if err != nil {
			t.Fatal(err)
		}
		var n notice
		if err := json.Unmarshal(b, &n); err != nil || n.Data.Sub != sub {
			t.Errorf("%q became %q, %v", sub, n.Data.Sub, err)
		}
	})
}
