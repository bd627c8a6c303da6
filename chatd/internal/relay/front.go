package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"chatvault/chatd/internal/admission"
	"chatvault/protocol/frame"
)

const (
	// headTimeout is how long a client may take to begin TLS, then for the rest
	// of it, then for its request.
	headTimeout = 5 * time.Second
	// maxHead is the size of the largest request, in bytes.
	maxHead = 8 << 10
	// restTimeout is how long a client may take to accept an answer of net/http,
	// and restAge after how long a connection is closed with the next answer.
	restTimeout = 10 * time.Second
	restAge     = 30 * time.Second
)

// Front accepts connections and reads the first request of each. What asks for
// an upgrade is answered here: a connection that becomes a WebSocket never costs
// what net/http needs to serve many requests. Any other request is net/http's.
type Front struct {
	// static after construction
	relay *Relay
	tls   *tls.Config // nil: plain
	http  *http.Server
	rest  *rest

	mu       sync.Mutex // guards what follows
	listener net.Listener
	closed   bool
}

// NewFront returns the front of a relay. A nil config means plain connections.
func NewFront(r *Relay, config *tls.Config) *Front {
	return &Front{
		relay: r, tls: config,
		http: &http.Server{
			Handler:     aging(r.Handler()),
			ConnContext: born,
			// Of the whole request: net/http waits for the body too, although nobody
			// here wants one.
			ReadTimeout:    r.headTimeout,
			WriteTimeout:   restTimeout,
			IdleTimeout:    30 * time.Second,
			MaxHeaderBytes: maxHead,
			// net/http writes whole addresses of clients into its log.
			ErrorLog: log.New(io.Discard, "", 0),
		},
		rest: &rest{conns: make(chan net.Conn), closed: make(chan struct{})},
	}
}

// birth is the key under which a request's context has the time at which its
// connection came.
type birth struct{}

func born(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, birth{}, time.Now())
}

// aging closes a connection that has been served for long. Its address paid for it
// once: a request now and then must not keep a socket for ever.
func aging(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if at, ok := req.Context().Value(birth{}).(time.Time); ok && time.Since(at) >= restAge {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, req)
	})
}

// Serve accepts until Shutdown, then returns nil.
func (f *Front) Serve(l net.Listener) error {
	f.mu.Lock()
	f.listener = l
	closed := f.closed
	f.mu.Unlock()
	if closed {
		return l.Close()
	}
	f.rest.addr = l.Addr()
	go f.http.Serve(f.rest)
	for wait := time.Duration(0); ; {
		conn, err := l.Accept()
		if err == nil {
			wait = 0
			go f.begin(conn)
			continue
		}
		if f.isClosed() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		// Out of descriptors, or the client gave up: neither is for good.
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		time.Sleep(wait)
	}
}

func (f *Front) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// Shutdown stops accepting, and waits for the requests of net/http until ctx
// ends. Those that became WebSockets are the relay's: see Drain.
func (f *Front) Shutdown(ctx context.Context) error {
	f.mu.Lock()
	f.closed = true
	if f.listener != nil {
		f.listener.Close()
	}
	f.mu.Unlock()
	return f.http.Shutdown(ctx)
}

// begin takes a connection to its first request.
func (f *Front) begin(raw net.Conn) {
	growStack()
	// Before anything is read. Whoever reads on sets another.
	if late := time.Now().Add(f.relay.headTimeout); f.tls == nil {
		raw.SetReadDeadline(late)
	} else {
		raw.SetDeadline(late)
	}
	nc, metered, err := f.secure(raw)
	if err != nil {
		raw.Close()
		return
	}
	if f.tls != nil {
		// Who came this far does not lose it to what TLS took.
		raw.SetDeadline(time.Now().Add(f.relay.headTimeout))
	}
	if c := f.first(raw, nc, metered); c != nil {
		c.serve()
	}
}

// first reads the first request, and returns what became a WebSocket.
func (f *Front) first(raw, nc net.Conn, metered bool) *conn {
	h := heads.Get().(*head)
	h.reset(nc)
	defer func() {
		h.reset(nil)
		heads.Put(h)
	}()
	switch first, err := h.in.Peek(len(upgrades)); {
	case err != nil:
		nc.Close()
	case asksForUpgrade(first):
		return f.upgrade(nc, h, metered)
	default:
		raw.SetDeadline(time.Time{})
		f.rest.give(&resumed{Conn: nc, in: h.takeReader()})
	}
	return nil
}

// growStack makes the goroutine's stack at once as large as the way to READY wants
// it, while there is next to nothing on it to copy. It is not larger: what the
// garbage collector finds mostly empty, it copies into a smaller one. What takes
// more, the verification, has goroutines of its own.
//
//go:noinline
func growStack() byte {
	var room [2 << 10]byte
	return room[len(nothing)]
}

// nothing keeps the compiler from seeing which byte growStack reads.
var nothing string

// upgrades is how the request for an upgrade begins; a query follows, or nothing.
const upgrades = "GET " + frame.Path + " "

func asksForUpgrade(b []byte) bool {
	last := len(upgrades) - 1
	return string(b[:last]) == upgrades[:last] && (b[last] == ' ' || b[last] == '?')
}

// secure does the TLS handshake, if there is to be one. Its cryptography stands
// behind the limits of the address, unless that is a proxy's, and behind a gate:
// handshakes are what a stranger can cost most by. metered says that the address
// has paid for its connection.
func (f *Front) secure(raw net.Conn) (nc net.Conn, metered bool, err error) {
	if f.tls == nil {
		return raw, false, nil
	}
	r := f.relay
	if len(r.cfg.Proxies) == 0 {
		addr, err := admission.PeerAddr(raw.RemoteAddr().String())
		if err != nil {
			return nil, false, err
		}
		if name, _ := r.overLimit(addr); name != "" {
			return nil, false, errLimited
		}
		metered = true
	}
	g := &gated{Conn: raw, relay: r}
	t := tls.Server(g, f.tls)
	err = g.during(t.Handshake) // raw has its deadline
	if err != nil && !errors.Is(err, errGate) {
		r.Counts.Add("refused_tls")
	}
	return t, metered, err
}

var errLimited = errors.New("the address has reached its limit")

// upgrade reads the request and answers it.
func (f *Front) upgrade(nc net.Conn, h *head, metered bool) (c *conn) {
	w := &answer{conn: nc, head: h}
	req := &h.request.Request
	buffered, err := h.in.Peek(h.in.Buffered())
	size, usual := h.request.parse(buffered)
	if usual {
		h.in.Discard(size) // it was peeked: it cannot fail
	} else {
		req, err = http.ReadRequest(h.in)
	}
	switch {
	case err != nil:
		if h.limited.N <= 0 {
			problem(w, http.StatusRequestHeaderFieldsTooLarge)
		} else {
			problem(w, http.StatusBadRequest)
		}
	case !req.ProtoAtLeast(1, 1) || req.Host == "":
		problem(w, http.StatusBadRequest)
	default:
		req.RemoteAddr = nc.RemoteAddr().String()
		if f.tls != nil {
			req.TLS = &secured
		}
		c = f.relay.admit(w, req, metered)
	}
	if !w.hijacked {
		w.finish()
		nc.Close()
	}
	return c
}

// secured says of a request that it came by TLS; nobody asks for more.
var secured tls.ConnectionState

// head is what reading a request takes.
type head struct {
	in      *bufio.Reader
	request request
	limited io.LimitedReader
	out     *bufio.Writer // gorilla/websocket writes its answer into the buffer of one
}

var heads = sync.Pool{New: func() any {
	return &head{in: bufio.NewReaderSize(nil, 1<<10), out: bufio.NewWriterSize(nil, 512)}
}}

func (h *head) reset(conn net.Conn) {
	h.limited = io.LimitedReader{R: conn, N: maxHead}
	if h.in == nil {
		h.in = bufio.NewReaderSize(nil, 1<<10)
	}
	h.in.Reset(&h.limited)
}

// takeReader gives the reader away, with what it holds.
func (h *head) takeReader() *bufio.Reader {
	in := h.in
	h.in = nil
	return in
}

// answer is the http.ResponseWriter of a request that was read here. There is
// one answer on a connection, or it becomes a WebSocket.
type answer struct {
	conn     net.Conn
	head     *head
	header   http.Header
	status   int
	body     strings.Builder
	hijacked bool
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// Hijack implements http.Hijacker.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.hijacked = true
	return a.conn, bufio.NewReadWriter(a.head.in, a.head.out), nil
}

// finish writes the answer.
func (a *answer) finish() {
	a.conn.SetWriteDeadline(time.Now().Add(time.Second))
	response := http.Response{
		StatusCode: a.status, ProtoMajor: 1, ProtoMinor: 1, Header: a.Header(), Close: true,
		ContentLength: int64(a.body.Len()), Body: io.NopCloser(strings.NewReader(a.body.String())),
	}
	response.Write(a.conn)
}

// rest is the listener of net/http.
type rest struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// give hands a connection over, or closes it.
func (l *rest) give(conn net.Conn) {
	select {
	case l.conns <- conn:
	case <-l.closed:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (l *rest) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *rest) Close() error { l.once.Do(func() { close(l.closed) }); return nil }

// Addr implements net.Listener.
func (l *rest) Addr() net.Addr { return l.addr }

// resumed is a connection of which something was read already.
type resumed struct {
	net.Conn
	in *bufio.Reader // nil once it is empty
}

// Read implements net.Conn.
func (r *resumed) Read(b []byte) (int, error) {
	if r.in != nil {
		n := min(r.in.Buffered(), len(b))
		if n > 0 {
			return r.in.Read(b[:n])
		}
		r.in = nil
	}
	return r.Conn.Read(b)
}
