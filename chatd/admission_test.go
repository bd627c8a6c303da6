package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// One customer has a whole /48: it counts together, under a limit of its own,
// which the refusal names.
func TestARangeOfIPv6CountsTogether(t *testing.T) {
	s := newSite(t)
	s.settings["behind-proxy"] = []string{"127.0.0.0/8"}
	s.settings["limit"] = map[string]string{"ConnectionsPerIPv6Range": "2/1/1h"}
	p := s.serve()
	for _, c := range []struct {
		from    string
		refused bool
	}{
		{"2001:db8:7:1::1", false},
		{"2001:db8:7:2::1", false},
		{"2001:db8:7:3::1", true},
		{"2001:db8:7:ffff::9", true},
		{"2001:db8:8::1", false}, // another /48
		{"192.0.2.7", false},     // IPv4 has no range
		{"192.0.2.8", false},
		{"192.0.2.9", false},
	} {
		d := websocket.Dialer{Subprotocols: []string{frame.Subprotocol}}
		ws, resp, err := d.Dial("ws://"+p.addr+frame.Path, http.Header{"X-Forwarded-For": {c.from}})
		if !c.refused {
			if err != nil {
				t.Errorf("%s: %v", c.from, err)
				continue
			}
			ws.Close()
			continue
		}
		if !errors.Is(err, websocket.ErrBadHandshake) || resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("%s: %v", c.from, err)
			continue
		}
		var problem struct {
			Limit   string `json:"limit"`
			RetryMS int    `json:"retry_after_ms"`
			Charged *bool  `json:"attempt_charged"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&problem); err != nil || problem.Limit != "ConnectionsPerIPv6Range" ||
			problem.RetryMS < 3_500_000 || problem.RetryMS > 3_600_000 || problem.Charged == nil || *problem.Charged {
			t.Errorf("%s: %+v, %v", c.from, problem, err)
		}
	}
}
