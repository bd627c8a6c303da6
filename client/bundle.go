package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"chatvault/client/internal/relay"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
)

// bundles opens the fleet bundle: the one that the Store holds, or a newer one
// from the relay. The relay's word counts for nothing (attack A10): both pinned
// signers, no lower epoch than ever seen, not expired.
type bundles struct {
	c    *Client
	http *http.Client
	url  string

	cur   fleet.Bundle // guarded by the Client's operation lock
	asked uint32       // the highest epoch of a HELLO that was asked for
}

func newBundles(c *Client) *bundles {
	u, err := url.Parse(c.cfg.URL)
	if err != nil {
		panic("client: a URL that was checked: " + err.Error())
	}
	u.Scheme = map[string]string{"wss": "https", "ws": "http"}[u.Scheme]
	u.Path, u.RawPath = frame.FleetPath, ""
	return &bundles{c: c, url: u.String(), http: &http.Client{
		Transport: &http.Transport{
			DialContext: c.cfg.Dial, TLSClientConfig: c.cfg.TLS.Clone(),
			TLSHandshakeTimeout: c.cfg.ConnectWait, MaxResponseHeaderBytes: 16 << 10,
			DisableKeepAlives: true, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// pins are the configured ones, raised to the highest epoch ever accepted.
func (b *bundles) pins() fleet.Pins {
	p := b.c.cfg.Pins
	p.MinEpoch = max(p.MinEpoch, b.c.state.MinEpoch)
	return p
}

// keys returns the fleet's keys, and whether it is the current fleet.
func (b *bundles) keys(ctx context.Context) (fleet.Keys, bool, error) {
	now := b.c.cfg.Now()
	if b.cur.Epoch == 0 && b.c.state.Bundle != nil {
		if cached, err := b.pins().Open(b.c.state.Bundle, now); err == nil {
			b.cur = cached
		} else {
			b.c.cfg.Logger.Info("stored fleet bundle refused", "error", err)
		}
	}
	if b.cur.Epoch == 0 || now.After(b.cur.NotAfter) {
		if err := b.refresh(ctx); err != nil {
			return fleet.Keys{}, false, err
		}
	}
	keys, current, _ := b.cur.Find(b.c.cfg.Pins.Fleet) // Open has found it
	return keys, current, nil
}

// announced fetches a newer bundle when HELLO names one. A lying relay gains a
// needless request, once for each epoch that it invents in ascending order.
func (b *bundles) announced(ctx context.Context, epoch uint32) {
	if epoch <= b.cur.Epoch || epoch <= b.asked {
		return
	}
	b.asked = epoch
	if err := b.refresh(ctx); err != nil {
		b.c.cfg.Logger.Warn("the relay announces a newer fleet bundle that cannot be used", "epoch", epoch, "error", err)
	}
}

func (b *bundles) refresh(ctx context.Context) error {
	signed, err := b.get(ctx)
	if err != nil {
		return err
	}
	opened, err := b.pins().Open(signed, b.c.cfg.Now())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBundle, err)
	}
	b.c.state.Bundle, b.c.state.MinEpoch = signed, max(b.c.state.MinEpoch, opened.Epoch)
	if err := b.c.save(); err != nil {
		return err
	}
	b.cur = opened
	return nil
}

func (b *bundles) get(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, b.c.cfg.ConnectWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: fleet bundle: %w", relay.ErrLost, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		s, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return nil, &relay.Refusal{Status: frame.RateLimited, RetryIn: time.Duration(min(max(s, 0), 86400)) * time.Second}
	case resp.StatusCode >= 500:
		return nil, fmt.Errorf("%w: fleet bundle: HTTP status %d", relay.ErrLost, resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: HTTP status %d", ErrBundle, resp.StatusCode)
	}
	signed, err := io.ReadAll(io.LimitReader(resp.Body, fleet.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%w: fleet bundle: %w", relay.ErrLost, err)
	}
	if len(signed) > fleet.MaxSize {
		return nil, fmt.Errorf("%w: %w", ErrBundle, errors.New("larger than allowed"))
	}
	return signed, nil
}
