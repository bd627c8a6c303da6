// Package admission decides, before anything costs more than a header, who may
// open a connection: from which address, origin and host name, and how many.
package admission

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
)

// ErrNotProxied is a plain connection that did not come through the proxy: the
// proxy is where TLS ends, so nobody else has a reason to come without it.
var ErrNotProxied = errors.New("a plain connection from outside of the proxy's range")

// Proxies are the ranges of the proxies before the relay, --behind-proxy.
type Proxies []netip.Prefix

func (p Proxies) contain(a netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// PeerAddr is the address of who connects, from what net/http calls RemoteAddr.
func PeerAddr(remote string) (netip.Addr, error) {
	peer, err := netip.ParseAddrPort(remote)
	return peer.Addr().Unmap(), err
}

// ClientAddr is the address that a request comes from. X-Forwarded-For counts
// only when a proxy of ours sent it, and then from the right, where the proxies
// write: the first address that is not a proxy is the client. What stands left
// of it, the client wrote itself.
func (p Proxies) ClientAddr(r *http.Request) (netip.Addr, error) {
	addr, err := PeerAddr(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, err
	}
	if !p.contain(addr) {
		if len(p) > 0 && r.TLS == nil {
			return netip.Addr{}, ErrNotProxied
		}
		return addr, nil
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, ok := parseHop(hops[i])
		if !ok {
			return addr, nil // the nearest address that a proxy vouches for
		}
		if addr = hop; !p.contain(addr) {
			return addr, nil
		}
	}
	return addr, nil
}

// parseHop reads an address, as proxies write one: with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && a.Zone() == "" {
		return a.Unmap(), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Addr().Zone() == "" {
		return ap.Addr().Unmap(), true
	}
	return netip.Addr{}, false
}

// LimitKeys are what an address counts as: an IPv4 address for itself, an IPv6
// address for its /64, which is one customer's, and besides for its /48, which
// one provider hands out as easily. wide is empty for IPv4.
func LimitKeys(a netip.Addr) (narrow, wide string) {
	if a.Is4() {
		return a.String(), ""
	}
	return prefix(a, 64), prefix(a, 48)
}

func prefix(a netip.Addr, bits int) string {
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}
