package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// verdict is what the lying relay does with a frame.
type verdict int

const (
	pass verdict = iota
	drop
	cut     // drop it and end the connection
	passCut // let it through, then end the connection
)

// direction of a frame.
type direction int

const (
	toVault direction = iota
	toPhone
)

// relay stands between the phones and chatd, and may pass, drop, or cut. It
// knows as much as chatd does: frames.
type relay struct {
	server *httptest.Server
	target atomic.Pointer[string] // chatd's address
	// lie, if set, decides about each frame.
	lie  atomic.Pointer[func(direction, frame.Frame) verdict]
	seen *syncBuffer // every byte of every message, both ways
}

func newRelay(t *testing.T) *relay {
	r := &relay{seen: &syncBuffer{}}
	mux := http.NewServeMux()
	mux.HandleFunc(frame.Path, r.relay)
	mux.Handle("/", &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: *r.target.Load()})
	}})
	r.server = httptest.NewServer(mux)
	t.Cleanup(r.server.Close)
	return r
}

func (r *relay) addr() string { return r.server.Listener.Addr().String() }
func (r *relay) url() string  { return "ws://" + r.addr() + frame.Path }

// lies sets what the relay does from now on; nil makes it honest.
func (r *relay) lies(f func(direction, frame.Frame) verdict) {
	if f == nil {
		r.lie.Store(nil)
		return
	}
	r.lie.Store(&f)
}

func (r *relay) relay(w http.ResponseWriter, req *http.Request) {
	dialer := websocket.Dialer{Subprotocols: []string{frame.Subprotocol}, NetDial: func(network, _ string) (net.Conn, error) {
		return net.Dial(network, *r.target.Load())
	}}
	far, _, err := dialer.Dial("ws://"+*r.target.Load()+frame.Path, nil)
	if err != nil {
		http.Error(w, "chatd is not there", http.StatusBadGateway)
		return
	}
	defer far.Close()
	near, err := (&websocket.Upgrader{Subprotocols: []string{frame.Subprotocol}}).Upgrade(w, req, nil)
	if err != nil {
		return
	}
	defer near.Close()
	var wg sync.WaitGroup
	wg.Go(func() { r.copy(toVault, near, far) })
	wg.Go(func() { r.copy(toPhone, far, near) })
	wg.Wait()
}

// copy moves messages one way until an end or a cut, then ends both sides.
func (r *relay) copy(d direction, from, to *websocket.Conn) {
	defer from.Close()
	defer to.Close()
	for {
		kind, b, err := from.ReadMessage()
		if err != nil {
			if e, ok := err.(*websocket.CloseError); ok && e.Code != websocket.CloseAbnormalClosure && e.Code != websocket.CloseNoStatusReceived {
				_ = to.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(e.Code, e.Text))
			}
			return
		}
		r.seen.Write(b)
		v := pass
		if lie := r.lie.Load(); lie != nil {
			if f, err := frame.Parse(b); err == nil {
				v = (*lie)(d, f)
			}
		}
		if v == pass || v == passCut {
			if to.WriteMessage(kind, b) != nil {
				return
			}
		}
		if v == cut || v == passCut {
			return
		}
	}
}

// on makes a lie about the DATA frames of one direction and sequence number: 1 is
// AUTHORISE, 2 KE1 and KE2, 3 KE3 and the wrapped key.
func on(d direction, sequence uint32, do func() verdict) func(direction, frame.Frame) verdict {
	return func(got direction, f frame.Frame) verdict {
		if data, ok := f.(frame.Data); ok && got == d && data.Sequence == sequence {
			return do()
		}
		return pass
	}
}
