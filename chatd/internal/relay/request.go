package relay

import (
	"bytes"
	"net/http"

	"chatvault/protocol/frame"
)

// What phones ask for is always the same few lines. They are read here, into
// memory that is used again; net/http makes a map, a URL and a string for each
// line of a request of which next to nothing is wanted. Whatever is unusual is
// left to http.ReadRequest, from its first byte: a request that does not fit into
// the buffer, one that has a body, bytes beyond ASCII, a line that is folded or
// broken. FuzzRequestAgreesWithNetHTTP compares the two.

// requestLine is the only one that is read here.
const requestLine = "GET " + frame.Path + " HTTP/1.1\r\n"

// request is a request for an upgrade, to be used again.
type request struct {
	http.Request
	values [len(wanted)][1]string // what Header holds; a line that comes twice is unusual
}

// wanted are the header lines that somebody asks for, in net/http's spelling, and
// the value that phones send, so that it need not be copied.
var wanted = [...]struct{ name, usual string }{
	{"Host", ""},
	{"Upgrade", "websocket"},
	{"Connection", "Upgrade"},
	{"Sec-Websocket-Key", ""},
	{"Sec-Websocket-Version", "13"},
	{"Sec-Websocket-Protocol", frame.Subprotocol},
	{"Origin", ""},
	{"X-Forwarded-For", ""},
}

// unusual are lines that change how a request is to be read, and the one by which
// extensions of WebSocket are asked for is not among them: there are none.
var unusual = [...]string{"Content-Length", "Transfer-Encoding", "Trailer", "Expect"}

// parse reads a whole request at the begin of b and says how long it is, or false
// when it is not one of those that are read here.
func (r *request) parse(b []byte) (size int, ok bool) {
	if len(b) < len(requestLine) || string(b[:len(requestLine)]) != requestLine {
		return 0, false
	}
	header := r.Header
	if clear(header); header == nil {
		header = make(http.Header, len(wanted))
	}
	r.Request = http.Request{Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header}
	for at := len(requestLine); ; {
		n := bytes.IndexByte(b[at:], '\n')
		if n < 1 || b[at+n-1] != '\r' {
			return 0, false
		}
		line := b[at : at+n-1]
		at += n + 1
		if len(line) == 0 {
			return at, r.Host != ""
		}
		if !r.line(line) {
			return 0, false
		}
	}
}

// line reads one header line; false when it is unusual.
func (r *request) line(line []byte) bool {
	name, value, found := bytes.Cut(line, []byte(":"))
	if !found || len(name) == 0 {
		return false
	}
	for _, c := range name {
		if !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	value = bytes.Trim(value, " \t")
	for _, c := range value {
		if c < ' ' || c > '~' {
			return false
		}
	}
	for _, u := range unusual {
		if sameName(name, u) {
			return false
		}
	}
	for i := range wanted {
		if w := &wanted[i]; sameName(name, w.name) {
			return r.set(i, value)
		}
	}
	return true // nobody asks for it
}

// set notes a wanted line.
func (r *request) set(i int, value []byte) bool {
	w := &wanted[i]
	text := w.usual
	if string(value) != text {
		text = string(value)
	}
	if w.name == "Host" {
		if r.Host != "" || !plainHost(value) {
			return false
		}
		r.Host = text
		return true
	}
	if _, twice := r.Header[w.name]; twice {
		return false
	}
	r.values[i][0] = text
	r.Header[w.name] = r.values[i][:]
	return true
}

// sameName compares letters, digits and "-" without regard to case.
func sameName(name []byte, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i, c := range name {
		if c|0x20 != want[i]|0x20 {
			return false
		}
	}
	return true
}

// plainHost says whether a host has no letters but those that need no thought.
func plainHost(host []byte) bool {
	for _, c := range host {
		if !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= ':' || c == '-' || c == '.' || c == '[' || c == ']') {
			return false
		}
	}
	return len(host) > 0
}
