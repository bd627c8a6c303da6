package jwksurl

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"chatvault/protocol/ticket"
)

func TestFetch(t *testing.T) {
	mux := http.NewServeMux()
	serve := func(path, body string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(body)) })
	}
	serve("/good", `{"keys":[]}`)
	serve("/largest", strings.Repeat(" ", ticket.MaxJWKS))
	serve("/too-large", strings.Repeat(" ", ticket.MaxJWKS+1))
	mux.Handle("/redirect", http.RedirectHandler("/good", http.StatusFound))
	mux.Handle("/gone", http.NotFoundHandler())

	secure, plain := httptest.NewTLSServer(mux), httptest.NewServer(mux)
	defer secure.Close()
	defer plain.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	fetch := Fetcher(roots)

	for path, want := range map[string]int{"/good": 11, "/largest": ticket.MaxJWKS, "/too-large": -1, "/redirect": -1, "/gone": -1} {
		for _, base := range []string{secure.URL, plain.URL} {
			b, err := fetch(context.Background(), base+path)
			if want < 0 && err == nil || want >= 0 && (err != nil || len(b) != want) {
				t.Errorf("%s%s: %d bytes, %v", base, path, len(b), err)
			}
		}
	}
	if _, err := Fetcher(nil)(context.Background(), secure.URL+"/good"); err == nil {
		t.Error("an unknown authority was trusted")
	}
	if _, err := fetch(context.Background(), "http://login.example/k"); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("in the clear: %v", err)
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	}))
	defer srv.Close()
	defer close(release)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := Fetcher(nil)(ctx, srv.URL); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
