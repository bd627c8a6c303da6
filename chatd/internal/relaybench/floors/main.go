// Command floors is what relaybench compares chatd with: small servers that do
// nothing but what their name says. Each echoes every message that it gets.
//
//	raw      TCP, a goroutine for each connection, no WebSocket
//	default  gorilla/websocket as its examples have it: Upgrader{}, served in the handler
//	tuned    gorilla/websocket with 512 B to read into, pooled write buffers, a goroutine of its own
//	gws      lxzan/gws with the same
//	proxy    tuned, and a backend connection of its own for each client
//
// It is a module of its own: the programs that are shipped do not depend on
// lxzan/gws.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	_ "net/http/pprof" // its heap profile collects garbage first, as chatd's does
	"os"
	"time"
)

// options are the command line.
type options struct {
	kind      string
	cert, key string        // PEM files; empty: no TLS
	ping      time.Duration // tuned: a ticker for each connection, that pings; 0: none
	backend   string        // proxy: where it connects
	ca        string        // proxy: mutual TLS to the backend, with this authority, cert and key
	name      string        // proxy: the backend's name in its certificate
}

func main() {
	var o options
	flag.StringVar(&o.kind, "kind", "", "raw, default, tuned, gws or proxy")
	flag.StringVar(&o.cert, "cert", "", "certificate, PEM")
	flag.StringVar(&o.key, "key", "", "its key, PEM")
	flag.DurationVar(&o.ping, "ping", 0, "ping each client this often")
	flag.StringVar(&o.backend, "backend", "", "address of the backend")
	flag.StringVar(&o.ca, "backend-ca", "", "authority of the backend; cert and key are then for the backend")
	flag.StringVar(&o.name, "backend-name", "", "name of the backend")
	flag.Parse()
	if err := o.serve(); err != nil {
		fmt.Fprintln(os.Stderr, "floors:", err)
		os.Exit(1)
	}
}

// serve listens, says where, and serves until it fails or is killed.
func (o *options) serve() error {
	l, err := o.listen()
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(admin, nil) // until the process ends
	run, err := o.server()
	if err != nil {
		return err
	}
	fmt.Printf("{\"msg\":\"listening\",\"address\":%q,\"admin\":%q}\n", l.Addr(), admin.Addr())
	return run(l)
}

func (o *options) listen() (net.Listener, error) {
	// As chatd has it: no keepalive.
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil || o.cert == "" || o.ca != "" {
		return l, err
	}
	cert, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}), nil
}

func (o *options) server() (func(net.Listener) error, error) {
	switch o.kind {
	case "raw":
		return serveRaw, nil
	case "default":
		return serveHTTP(serveDefault), nil
	case "tuned":
		t := newTuned(o.ping)
		return serveHTTP(t.serve), nil
	case "gws":
		return serveHTTP(newGWS()), nil
	case "proxy":
		p, err := newProxy(o)
		return serveHTTP(p.serve), err
	}
	return nil, fmt.Errorf("kind %q: there is none", o.kind)
}

func serveHTTP(h http.HandlerFunc) func(net.Listener) error {
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	return s.Serve
}

func serveRaw(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 512)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// backendTLS is how a proxy reaches its backend.
func (o *options) backendTLS() (*tls.Config, error) {
	pem, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("backend-ca: no certificate")
	}
	cert, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{cert}, ServerName: o.name}, nil
}
