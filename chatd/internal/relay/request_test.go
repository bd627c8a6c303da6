package relay

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// What is read here is read as net/http does: where it ends, the host, and every
// header line that somebody asks for.
func FuzzRequestAgreesWithNetHTTP(f *testing.F) {
	good := upgradeRequest("")
	for _, s := range []string{
		good, good + "more", upgradeRequest("Origin: https://app.example\r\n"), upgradeRequest("X-Forwarded-For:\t192.0.2.1, 10.0.0.1 \r\n"),
		upgradeRequest("Host: another\r\n"), upgradeRequest("Content-Length: 3\r\n") + "abc", upgradeRequest("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
		upgradeRequest("A: b\r\n folded\r\n"), upgradeRequest("A : b\r\n"), upgradeRequest("A: \x00\r\n"), upgradeRequest("A: b\n"), upgradeRequest(": b\r\n"),
		upgradeRequest("Connection: close\r\n"), upgradeRequest("Pragma: no-cache\r\nCookie: a=b\r\n"), upgradeRequest("Upgrade:\r\n"),
		strings.ToLower(good), strings.Replace(good, "Host: relay", "hOsT:[::1]:80", 1), strings.Replace(good, "Host: relay\r\n", "", 1),
		strings.Replace(good, "Host: relay", "Host: a/b", 1), strings.Replace(good, "HTTP/1.1", "HTTP/1.0", 1), good[:len(good)-1],
	} {
		f.Add([]byte(s))
	}
	again := new(request) // it must not remember anything
	f.Fuzz(func(t *testing.T, b []byte) {
		size, ok := again.parse(b)
		if !ok {
			return
		}
		in := bufio.NewReader(bytes.NewReader(b))
		want, err := http.ReadRequest(in)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", b, err)
		}
		rest, _ := io.ReadAll(in)
		if size != len(b)-len(rest) || want.ContentLength != 0 || want.Body != http.NoBody {
			t.Errorf("%d bytes of %q, want %d", size, b, len(b)-len(rest))
		}
		if again.Method != want.Method || again.Host != want.Host || !again.ProtoAtLeast(1, 1) || want.URL.Path != requestLine[4:len(requestLine)-11] {
			t.Errorf("%+v, want %+v", again.Request, want)
		}
		for _, w := range wanted {
			if got, want := again.Header[w.name], want.Header[w.name]; !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", w.name, got, want)
			}
		}
		if len(again.Header) > len(want.Header) {
			t.Errorf("%v, want %v", again.Header, want.Header)
		}
	})
}

// What phones and browsers send is not left to net/http.
func TestUsualRequestsAreReadHere(t *testing.T) {
	r := new(request)
	phone := []byte(upgradeRequest(""))
	browser := []byte(upgradeRequest("Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n" +
		"Origin: https://app.example\r\nAccept-Encoding: gzip, deflate, br\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"))
	for _, b := range [][]byte{phone, browser} {
		if n, ok := r.parse(b); !ok || n != len(b) {
			t.Errorf("%q: %d, %v", b, n, ok)
		}
	}
	if n := testing.AllocsPerRun(100, func() { r.parse(phone) }); n > 2 { // the host and the key
		t.Errorf("%v allocations", n)
	}
}
