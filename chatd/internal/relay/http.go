package relay

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/admission"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/frame"
)

// ReadyPath answers 200 or 503, for whoever balances the load.
const ReadyPath = "/readyz"

// Handler serves the endpoint of clients, the fleet bundle and ReadyPath.
func (r *Relay) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+frame.Path, r.serveClient)
	mux.HandleFunc("GET "+frame.FleetPath, r.serveBundle)
	mux.HandleFunc("GET "+ReadyPath, r.serveReady)
	return mux
}

func (r *Relay) serveBundle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Access-Control-Allow-Origin", "*") // it is public, and signed
	w.Write(r.settings.Load().bundle)
}

func (r *Relay) serveReady(w http.ResponseWriter, _ *http.Request) {
	if !r.Ready() {
		problem(w, http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// serveClient upgrades a request that net/http has read.
func (r *Relay) serveClient(w http.ResponseWriter, req *http.Request) {
	if c := r.admit(w, req, false); c != nil {
		// A goroutine of its own: the handler's would keep net/http's buffers and
		// the request in memory for as long as the client is active.
		go c.serve()
	}
}

// admit upgrades a request. All that stands before the upgrade costs no
// cryptography and no Redis. metered says that the address has paid already. It
// returns the connection, for which serve is to be called, or nil.
func (r *Relay) admit(w http.ResponseWriter, req *http.Request, metered bool) *conn {
	began := r.Clock.Now()
	addr, err := r.cfg.Proxies.ClientAddr(req)
	if errors.Is(err, admission.ErrNotProxied) {
		r.refuse(w, http.StatusForbidden, "not_proxied", 0)
		return nil
	}
	if err != nil {
		r.refuse(w, http.StatusBadRequest, "no_address", 0)
		return nil
	}
	if !metered {
		if name, retry := r.overLimit(addr); name != "" {
			r.refuse(w, http.StatusTooManyRequests, name, retry)
			return nil
		}
	}
	if asked := req.Header[protocolHeader]; (len(asked) != 1 || asked[0] != frame.Subprotocol) && !slices.Contains(websocket.Subprotocols(req), frame.Subprotocol) {
		r.refuse(w, http.StatusBadRequest, "no_subprotocol", 0)
		return nil
	}
	if r.places.Add(1) > int64(r.cfg.MaxConnections) {
		r.places.Add(-1)
		r.refuse(w, http.StatusServiceUnavailable, "max_connections", time.Second)
		return nil
	}
	c := newConn(r, began)
	// What it returns is made again for those who need it: see gorilla.
	if _, err = r.upgrader.Upgrade(hijacker{w, c}, req, speaks); err != nil {
		c.detach()
		r.places.Add(-1)
		r.Counts.Add("refused_upgrade")
		return nil
	}
	c.in.br.Reset(c.in)
	c.greet()
	return c
}

const protocolHeader = "Sec-Websocket-Protocol"

// speaks is what every answer says: that the client asks for it was checked.
var speaks = http.Header{protocolHeader: {frame.Subprotocol}}

// overLimit counts a connection of an address; it names the limit that is
// reached, if one is.
func (r *Relay) overLimit(addr netip.Addr) (name string, retry time.Duration) {
	narrow, wide := admission.LimitKeys(addr)
	for _, l := range [2]struct{ name, id string }{
		{ratelimit.ConnectionsPerIP, narrow}, {ratelimit.ConnectionsPerIPv6Range, wide},
	} {
		if l.id == "" {
			continue
		}
		if d, _ := r.Local.Spend(r.ctx, l.name, r.limit(l.name, addr), l.id); !d.Allowed {
			r.Counts.Add("limited_" + l.name)
			return l.name, d.Retry
		}
	}
	return "", 0
}

func (r *Relay) originAllowed(req *http.Request) bool {
	origin := req.Header.Values("Origin")
	return len(origin) == 0 || len(origin) == 1 && r.cfg.Origins.Has(origin[0])
}

// refuse answers a request that is not upgraded, and counts why.
func (r *Relay) refuse(w http.ResponseWriter, status int, why string, retry time.Duration) {
	r.Counts.Add("refused_" + why)
	if retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(retry.Seconds()))))
	}
	if status != http.StatusTooManyRequests {
		problem(w, status)
		return
	}
	writeProblem(w, status, map[string]any{
		"title": http.StatusText(status), "status": status,
		"limit": why, "retry_after_ms": millis(retry), "attempt_charged": false,
	})
}

// problem answers with RFC 9457's form and nothing of the request.
func problem(w http.ResponseWriter, status int) {
	writeProblem(w, status, map[string]any{"title": http.StatusText(status), "status": status})
}

func writeProblem(w http.ResponseWriter, status int, members map[string]any) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(members)
}
