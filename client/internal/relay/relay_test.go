package relay

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// Full jitter: anywhere from none to a ceiling that doubles from 0.5 to 20 s.
func TestBackoff(t *testing.T) {
	if d := Backoff(0); d != 0 {
		t.Errorf("without a failure: %s", d)
	}
	ceilings := []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 20 * time.Second, 20 * time.Second}
	for i, ceiling := range ceilings {
		for _, n := range []int{i + 1, len(ceilings) + 1000*i} {
			if n > i+1 {
				ceiling = backoffLast
			}
			var low, high int
			for range 400 {
				d := Backoff(n)
				if d < 0 || d > ceiling {
					t.Fatalf("after %d failures: %s, above %s", n, d, ceiling)
				}
				if d < ceiling/4 {
					low++
				}
				if d > ceiling*3/4 {
					high++
				}
			}
			if low < 50 || high < 50 { // a hundred each is expected
				t.Errorf("after %d failures: %d low and %d high of 400", n, low, high)
			}
		}
	}
}

func TestCloseCodesAreRefusals(t *testing.T) {
	for _, s := range frame.Statuses() {
		if s == frame.OK {
			continue
		}
		err := closeError(fmt.Errorf("read: %w", &websocket.CloseError{Code: s.CloseCode(), Text: "\x1b[31mpwned"}))
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Status != s {
			t.Errorf("%s: %v", s, err)
		}
	}
	// 4000 + a final status, or 4500 + a retryable one, is nobody's code.
	for _, code := range []int{1000, 1006, 4000, 4000 + int(frame.NotAuthorised), 4500 + int(frame.Busy), 4999} {
		err := closeError(&websocket.CloseError{Code: code})
		if r, ok := errors.AsType[*Refusal](err); ok || !errors.Is(err, ErrLost) {
			t.Errorf("close code %d: %v, %v", code, err, r)
		}
	}
}

func TestRefusedUpgrades(t *testing.T) {
	for status, want := range map[int]frame.Status{
		http.StatusTooManyRequests: frame.RateLimited, http.StatusServiceUnavailable: frame.Busy,
		http.StatusForbidden: frame.NotAuthorised, http.StatusUnauthorized: frame.NotAuthorised,
	} {
		resp := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"7"}}, Body: http.NoBody}
		r, ok := errors.AsType[*Refusal](dialError(resp, websocket.ErrBadHandshake))
		if !ok || r.Status != want || r.RetryIn != 7*time.Second {
			t.Errorf("HTTP %d: %+v", status, r)
		}
	}
	if err := dialError(&http.Response{StatusCode: 502}, websocket.ErrBadHandshake); !errors.Is(err, ErrLost) {
		t.Errorf("HTTP 502: %v", err)
	}
	if err := dialError(&http.Response{StatusCode: 404}, websocket.ErrBadHandshake); !errors.Is(err, ErrProtocol) {
		t.Errorf("HTTP 404: %v", err)
	}
}

// A relay's text reaches terminals and logs only if it is harmless.
func TestLimitNamesAreCleaned(t *testing.T) {
	for limit, want := range map[string]string{"OpensPerAccount": "OpensPerAccount", "a\x1b[2Jb": "", "\xff": ""} {
		if got := refusal(frame.Refuse{Limit: limit}).Limit; got != want {
			t.Errorf("%q became %q", limit, got)
		}
	}
}

func TestWhichLimitRefusedTheUpgrade(t *testing.T) {
	for body, want := range map[string]Refusal{
		`{"title":"Too Many Requests","status":429,"limit":"ConnectionsPerIP","retry_after_ms":1500,"attempt_charged":false}`: {RetryIn: 1500 * time.Millisecond, Limit: "ConnectionsPerIP"},
		`{"retry_after_ms":4000000000}`:               {RetryIn: 24 * time.Hour},
		`{"limit":"\u001b[31m"}`:                      {RetryIn: 7 * time.Second}, // not to a terminal
		`{"limit":"` + strings.Repeat("x", 33) + `"}`: {RetryIn: 7 * time.Second},
		`{"limit":7}`:                                 {RetryIn: 7 * time.Second},
		"<html>Go away!":                              {RetryIn: 7 * time.Second},
		"":                                            {RetryIn: 7 * time.Second},
	} {
		resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader(body))}
		var got *Refusal
		want.Status = frame.RateLimited
		if err := dialError(resp, websocket.ErrBadHandshake); !errors.As(err, &got) || *got != want {
			t.Errorf("%s: %+v, want %+v", body, got, want)
		}
	}
}
