package uplink

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
)

// The role of a program is a DNS name in its certificate, the same wherever it
// runs: addresses say where a vault is, never what it is (A9).
const (
	VaultRole = "vaultd.chatvault.internal"
	ChatRole  = "chatd.chatvault.internal"
)

// dialTimeout bounds TCP, TLS and the node's hello together.
const dialTimeout = 5 * time.Second

// Why a node that was reached is not used.
var (
	ErrVersion = errors.New("the vault node speaks another version of the uplink")
	ErrFleet   = errors.New("the vault node belongs to another fleet")
	ErrHello   = errors.New("the vault node did not say hello")
)

// LoadTLS reads chatd's side of mutual TLS: the private authority that signs
// all roles, and chatd's own certificate, which must carry ChatRole.
func LoadTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("the vaults' authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the vaults' authority: %s holds no certificate", caFile)
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("chatd's certificate for the vaults: %w", err)
	}
	if !slices.Contains(cert.Leaf.DNSNames, ChatRole) {
		return nil, fmt.Errorf("chatd's certificate for the vaults: %s does not carry the name %s", certFile, ChatRole)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      roots,
		ServerName:   VaultRole,
		Certificates: []tls.Certificate{cert},
	}, nil
}

// dial reaches a vault node and reads its hello.
func dial(ctx context.Context, w *wheel.Wheel, config *tls.Config, fleet, addr string) (*Link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: config}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dialling: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	heard := newPulse(conn, w)
	in := bufio.NewReaderSize(heard, 64<<10)
	hello, err := readHello(in)
	if !stop() && err == nil {
		err = fmt.Errorf("%w in time", ErrHello)
	}
	if err == nil {
		err = checkHello(hello, fleet)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return newLink(w, addr, heard, in, hello.Node), nil
}

func readHello(in *bufio.Reader) (frame.UplinkHello, error) {
	number, raw, err := frame.ReadEnvelope(in, make([]byte, frame.MaxFrame))
	if err != nil {
		return frame.UplinkHello{}, fmt.Errorf("%w: %w", ErrHello, err)
	}
	f, err := frame.ParseUplink(raw)
	hello, ok := f.(frame.UplinkHello)
	if err != nil || !ok || number != 0 {
		return frame.UplinkHello{}, ErrHello
	}
	return hello, nil
}

func checkHello(h frame.UplinkHello, fleet string) error {
	switch {
	case h.Version != frame.UplinkVersion:
		return fmt.Errorf("%w: %d, and this chatd %d", ErrVersion, h.Version, frame.UplinkVersion)
	case h.Fleet != fleet:
		return ErrFleet
	case h.Node == (frame.NodeID{}):
		return fmt.Errorf("%w: no node id", ErrHello)
	}
	return nil
}
