package admission

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"testing"
)

func TestClientAddr(t *testing.T) {
	proxies := Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, c := range map[string]struct {
		peer      string
		forwarded []string
		tls       bool
		proxies   Proxies
		want      string
		err       error
	}{
		"no proxies":                        {peer: "192.0.2.1:5", forwarded: []string{"198.51.100.1"}, want: "192.0.2.1"},
		"from the proxy":                    {peer: "10.0.0.1:5", forwarded: []string{"198.51.100.1"}, proxies: proxies, want: "198.51.100.1"},
		"from a proxy before the proxy":     {peer: "10.0.0.1:5", forwarded: []string{"198.51.100.1, 10.0.0.2"}, proxies: proxies, want: "198.51.100.1"},
		"what the client wrote":             {peer: "10.0.0.1:5", forwarded: []string{"203.0.113.9, 198.51.100.1"}, proxies: proxies, want: "198.51.100.1"},
		"a proxy's address by the client":   {peer: "10.0.0.1:5", forwarded: []string{"10.9.9.9, 198.51.100.1"}, proxies: proxies, want: "198.51.100.1"},
		"two headers":                       {peer: "10.0.0.1:5", forwarded: []string{"203.0.113.9", "198.51.100.1"}, proxies: proxies, want: "198.51.100.1"},
		"no header":                         {peer: "10.0.0.1:5", proxies: proxies, want: "10.0.0.1"},
		"nonsense on the right":             {peer: "10.0.0.1:5", forwarded: []string{"198.51.100.1, unknown"}, proxies: proxies, want: "10.0.0.1"},
		"nonsense further left":             {peer: "10.0.0.1:5", forwarded: []string{"x, 10.0.0.2"}, proxies: proxies, want: "10.0.0.2"},
		"only proxies":                      {peer: "10.0.0.1:5", forwarded: []string{"10.0.0.3, 10.0.0.2"}, proxies: proxies, want: "10.0.0.3"},
		"with ports and brackets":           {peer: "10.0.0.1:5", forwarded: []string{"[2001:db8::1]:443"}, proxies: proxies, want: "2001:db8::1"},
		"mapped IPv4":                       {peer: "[::ffff:10.0.0.1]:5", forwarded: []string{"::ffff:198.51.100.1"}, proxies: proxies, want: "198.51.100.1"},
		"an IPv6 proxy":                     {peer: "[fd00::1]:5", forwarded: []string{"2001:db8::1"}, proxies: proxies, want: "2001:db8::1"},
		"a zone is no address":              {peer: "10.0.0.1:5", forwarded: []string{"fe80::1%eth0"}, proxies: proxies, want: "10.0.0.1"},
		"around the proxy, plain":           {peer: "192.0.2.1:5", forwarded: []string{"10.0.0.1"}, proxies: proxies, err: ErrNotProxied},
		"around the proxy, TLS":             {peer: "192.0.2.1:5", forwarded: []string{"198.51.100.1"}, tls: true, proxies: proxies, want: "192.0.2.1"},
		"loopback is not the proxy's range": {peer: "127.0.0.1:5", proxies: proxies, err: ErrNotProxied},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.forwarded}}
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		got, err := c.proxies.ClientAddr(r)
		if !errors.Is(err, c.err) || err == nil && got.String() != c.want {
			t.Errorf("%s: %v, %v; want %s, %v", name, got, err, c.want, c.err)
		}
	}
	if a, err := (Proxies{}).ClientAddr(&http.Request{RemoteAddr: "pipe"}); err == nil {
		t.Errorf("no address: %v", a)
	}
}

func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"", "192.0.2.1", "a, 192.0.2.1, 10.0.0.1", "[::1]:2,,", "10.0.0.1,10.0.0.2"} {
		f.Add(s)
	}
	proxies := Proxies{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, s string) {
		addr, err := proxies.ClientAddr(&http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"X-Forwarded-For": {s}}})
		if err != nil || !addr.IsValid() {
			t.Fatalf("%q: %v, %v", s, addr, err)
		}
		// Whatever a client puts in front changes nothing that proxies vouch for.
		behind, _ := proxies.ClientAddr(&http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"X-Forwarded-For": {s + ", 198.51.100.1"}}})
		if behind.String() != "198.51.100.1" {
			t.Fatalf("%q moved the client to %v", s, behind)
		}
		if narrow, _ := LimitKeys(addr); narrow == "" {
			t.Fatalf("%v counts as nothing", addr)
		}
	})
}

func TestLimitKeys(t *testing.T) {
	for _, c := range []struct{ addr, narrow, wide string }{
		{"192.0.2.1", "192.0.2.1", ""},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"fe80::1%eth0", "fe80::/64", "fe80::/48"},
	} {
		if narrow, wide := LimitKeys(netip.MustParseAddr(c.addr)); narrow != c.narrow || wide != c.wide {
			t.Errorf("%s: %q, %q", c.addr, narrow, wide)
		}
	}
}

func TestHosts(t *testing.T) {
	n, err := Hosts([]string{"Chat.Example", "chat.example:8443", "[2001:db8::1]", "192.0.2.1:80"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"chat.example": true, "CHAT.example": true, "chat.example:8443": true, "[2001:db8::1]": true, "192.0.2.1:80": true,
		"chat.example:443": false, "chat.example.": false, "evil.example": false, "": false, "chat.example:8443.evil.example": false,
	} {
		if n.Has(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
	for _, bad := range []string{"", "wss://a", "a/b", "a b", "user@a", ":80", "a?b", "2001:db8::1"} {
		if _, err := Hosts([]string{bad}); err == nil {
			t.Errorf("%q was accepted as a host", bad)
		}
	}
	local, err := LoopbackHosts(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080})
	if err != nil || !local.Has("127.0.0.1:8080") || !local.Has("localhost:8080") || local.Has("127.0.0.1") {
		t.Errorf("%v, %v", local, err)
	}
	if n, err := LoopbackHosts(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443}); err == nil {
		t.Errorf("a default port: %v", n)
	}
}

func TestOrigins(t *testing.T) {
	if _, err := Origins([]string{"https://app.example", "http://localhost:3000"}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "*", "null", "app.example", "https://app.example/", "https://", "https://u@app.example"} {
		if _, err := Origins([]string{bad}); err == nil {
			t.Errorf("%q was accepted as an origin", bad)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:80": true, "127.9.9.9:80": true, "[::1]:80": true, "localhost:80": true,
		":80": false, "0.0.0.0:80": false, "[::]:80": false, "192.0.2.1:80": false, "localhost.example:80": false, "127.0.0.1": false,
	} {
		if IsLoopback(listen) != want {
			t.Errorf("%s: %v", listen, !want)
		}
	}
}

func TestCapacity(t *testing.T) {
	for _, c := range []struct {
		asked int
		have  int64
		want  int // 0: an error
	}{
		{0, 20_000, 17_550}, {1000, 20_000, 1000}, {17_551, 20_000, 0}, {0, 256, 0}, {5000, 0, 5000}, {0, 1 << 40, 1_000_000},
	} {
		got, err := capacity(c.asked, c.have)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%d of %d: %d, %v", c.asked, c.have, got, err)
		}
		if c.have > 0 && c.want > 0 && Sockets(got) > c.have {
			t.Errorf("%d connections: %d sockets of %d files", got, Sockets(got), c.have)
		}
	}
	if _, err := Capacity(1); err != nil {
		t.Error(err)
	}
}

func TestListenerClosesWhatIsTooMany(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	refused := make(chan struct{}, 10)
	l := &Listener{Listener: inner, Max: 1, Refused: func() { refused <- struct{}{} }}
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-accepted
	if n, err := dial().Read(make([]byte, 1)); err == nil {
		t.Errorf("the second read %d bytes", n)
	}
	<-refused
	first.Close()
	first.Close() // gives its place back once
	dial()
	<-accepted
	dial().Read(make([]byte, 1))
	<-refused
}
