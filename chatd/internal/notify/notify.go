// Package notify tells an app's backend that a doorbell rang at an account of
// which no other device is connected, so that the app can push.
//
// Each notice is one POST, signed as Standard Webhooks 1.0.0 describes
// (standardwebhooks.com), with HMAC-SHA-256 under a key that the backend has
// too: most languages have a library that verifies it. Its body names the
// account as the app's own tickets do, and says nothing of what happened, not
// even whether it was good or bad: that is asked inside a vault session.
package notify

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"chatvault/chatd/internal/clock"
	"chatvault/protocol/secret"
)

const (
	// Type is the one type of message there is.
	Type = "chatvault.notice"

	maxQueue = 4096             // accounts that wait; beyond it notices are dropped
	workers  = 8                // POSTs at a time
	timeout  = 10 * time.Second // of one
	tries    = 6
	grace    = 5 * time.Second
	pause    = time.Second // before the second try; then twice as long each time
)

// Outcomes of a notice, as they are counted.
const (
	Delivered = "webhook_delivered" // 2xx
	Refused   = "webhook_refused"   // an answer after which trying again is no use
	Failed    = "webhook_failed"    // no good answer in 6 tries over half a minute and more
	Dropped   = "webhook_dropped"   // the queue was full, or chatd ended
	Joined    = "webhook_joined"    // one for the same account was waiting
	Retried   = "webhook_retried"   // a try that failed and is repeated
)

// Config of a Webhook.
type Config struct {
	URL string
	// Keys sign, until SetKeys gives others; see ParseKeys.
	Keys []secret.Bytes
	// Roots are the authorities that URL's certificate may have; nil: the
	// system's.
	Roots *x509.CertPool
	Clock clock.Clock
	// Count counts the outcomes.
	Count func(name string)
}

// CheckURL says what is wrong with a URL to POST to: it must be https, or on
// loopback, and without a user: a password does not belong on command lines.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return errors.New("want https://host/path") // the text may hold a password
	case u.User != nil:
		return errors.New("a URL must not hold a user or password: what signs is in the key file")
	case u.Fragment != "":
		return errors.New("a URL to POST to has no fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return errors.New("want https://host/path")
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return errors.New("http is for loopback only: want https")
}

// Webhook posts notices.
type Webhook struct {
	cfg    Config
	client *http.Client
	more   chan struct{} // one for each account in the queue
	keys   atomic.Pointer[[]secret.Bytes]

	mu      sync.Mutex
	queue   []string
	waiting map[string]struct{}
	over    bool
}

// New returns a Webhook; Run makes it post.
func New(cfg Config) *Webhook {
	w := &Webhook{
		cfg: cfg, more: make(chan struct{}, maxQueue), waiting: map[string]struct{}{},
		client: &http.Client{
			Timeout: timeout,
			// A redirect would say to somebody else whose doorbell rang.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				TLSClientConfig:        &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:    5 * time.Second,
				MaxResponseHeaderBytes: 16 << 10,
				MaxConnsPerHost:        workers,
				MaxIdleConnsPerHost:    workers,
				IdleConnTimeout:        90 * time.Second,
				ForceAttemptHTTP2:      true,
			},
		},
	}
	w.SetKeys(cfg.Keys)
	return w
}

// SetKeys makes every POST from now on be signed with these keys, those of
// notices that are tried again too.
func (w *Webhook) SetKeys(keys []secret.Bytes) { w.keys.Store(&keys) }

// Notify makes a notice for the account due. It never waits. While one for the
// same account waits in the queue, the two are one.
func (w *Webhook) Notify(sub string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, waits := w.waiting[sub]
	switch {
	case w.over || !waits && len(w.queue) == maxQueue:
		w.cfg.Count(Dropped)
	case waits:
		w.cfg.Count(Joined)
	default:
		w.waiting[sub] = struct{}{}
		w.queue = append(w.queue, sub)
		w.more <- struct{}{}
	}
}

// Run posts until ctx ends, and then for 5 s at most what still waits. What is
// left is dropped, and counted.
func (w *Webhook) Run(ctx context.Context) {
	within, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { w.cfg.Clock.AfterFunc(grace, cancel) })()
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for w.next(ctx, within) {
				w.deliver(within, w.take())
			}
		})
	}
	running.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	for range w.queue {
		w.cfg.Count(Dropped)
	}
	w.queue, w.waiting = nil, nil
	w.client.CloseIdleConnections()
}

// next waits for an account to take. Once ctx has ended, only for one that is
// in the queue; once within has, for none.
func (w *Webhook) next(ctx, within context.Context) bool {
	if within.Err() != nil {
		return false
	}
	select {
	case <-w.more:
		return true
	case <-ctx.Done():
	}
	select {
	case <-w.more:
		return true
	default:
		return false
	}
}

func (w *Webhook) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	sub := w.queue[0]
	w.queue = w.queue[1:]
	delete(w.waiting, sub)
	return sub
}

// deliver posts one notice until it is taken, refused or given up. The id stays
// the same, so that the backend can tell a repeat; the time is that of each try,
// so that it can tell a replay.
func (w *Webhook) deliver(ctx context.Context, sub string) {
	id := newID()
	at := w.cfg.Clock.Now()
	for try := 1; ; try++ {
		outcome := w.post(ctx, id, sub, at)
		switch {
		case outcome != Retried:
		case try == tries:
			outcome = Failed
		case w.wait(ctx, pause<<(try-1)):
			w.cfg.Count(Retried)
			continue
		default:
			outcome = Dropped
		}
		w.cfg.Count(outcome)
		return
	}
}

// wait waits for 3/4 to 5/4 of d; false means that ctx ended.
func (w *Webhook) wait(ctx context.Context, d time.Duration) bool {
	after, release := clock.After(w.cfg.Clock, d*3/4+rand.N(d/2))
	defer release()
	select {
	case <-after:
		return true
	case <-ctx.Done():
		return false
	}
}

// newID is the nonce of a notice.
func newID() string {
	return "msg_" + cryptorand.Text() // 130 bits
}

// notice is the body. It has no more members, ever, without a new Type.
type notice struct {
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"` // RFC 3339, UTC, whole seconds: when it rang
	Data      data   `json:"data"`
}

type data struct {
	Sub string `json:"sub"` // of the account's tickets
}

// post tries once. Its outcome is Retried when another try may help.
func (w *Webhook) post(ctx context.Context, id, sub string, at time.Time) (outcome string) {
	body, err := json.Marshal(notice{Type, at.UTC().Format(time.RFC3339), data{sub}})
	if err != nil {
		return Refused
	}
	timestamp := strconv.FormatInt(w.cfg.Clock.Now().Unix(), 10)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return Refused
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "chatd")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", timestamp)
	req.Header.Set("webhook-signature", sign(*w.keys.Load(), id, timestamp, body))
	resp, err := w.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return Dropped
		}
		return Retried
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
	return outcomeOf(resp.StatusCode)
}

// outcomeOf says what an answer means. 408, 425 and 429 ask to come again, and
// so does a server that fails; any other answer will be the same next time.
func outcomeOf(status int) string {
	switch {
	case status >= 200 && status < 300:
		return Delivered
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		return Retried
	}
	return Refused
}
