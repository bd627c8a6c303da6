// Package jwksurl fetches an issuer's JWK set over HTTPS, for programs that
// may dial. It stands apart from package ticket, so that a vault, which dials
// nobody, does not link net/http through it.
package jwksurl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"chatvault/protocol/ticket"
)

// Fetcher returns a [ticket.FetchFunc]: one GET of at most 5 s, TLS 1.2 or
// later, no redirects, no proxy, at most [ticket.MaxJWKS] bytes. roots nil
// means those of the system.
func Fetcher(roots *x509.CertPool) ticket.FetchFunc {
	client := &http.Client{
		Timeout: 5 * time.Second,
		// A redirect would choose, in the issuer's stead, where keys come from.
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("redirects are not followed")
		},
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    3 * time.Second,
			ResponseHeaderTimeout:  3 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
			DisableKeepAlives:      true, // at most one request a minute
			ForceAttemptHTTP2:      true,
		},
	}
	return func(ctx context.Context, url string) ([]byte, error) {
		return fetch(ctx, client, url)
	}
}

func fetch(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	if err := ticket.CheckURL(url); err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("jwks: status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, ticket.MaxJWKS+1))
	if err != nil {
		return nil, fmt.Errorf("jwks: reading: %w", err)
	}
	if len(b) > ticket.MaxJWKS {
		return nil, fmt.Errorf("jwks: larger than %d bytes", ticket.MaxJWKS)
	}
	return b, nil
}
