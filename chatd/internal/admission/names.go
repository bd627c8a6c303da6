package admission

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// Names is a set of host names, or of origins, compared exactly after the
// letters A to Z were made small.
type Names map[string]bool

// Has says whether name is in the set.
func (n Names) Has(name string) bool { return n[strings.ToLower(name)] }

// Hosts are the names by which clients may dial the relay, as a client signs
// them: with the port, unless it is the default one of the scheme
// (ticket.Host).
func Hosts(names []string) (Names, error) {
	out := Names{}
	for _, name := range names {
		u, err := url.Parse("wss://" + name)
		bare := err == nil && strings.Contains(u.Hostname(), ":") && name[0] != '[' // IPv6 wants brackets
		if err != nil || bare || u.Host != name || u.Hostname() == "" || len(name) > 255 {
			return nil, fmt.Errorf("host %q: want a name as clients dial it, with the port if it is not the default one", name)
		}
		out[strings.ToLower(name)] = true
	}
	return out, nil
}

// LoopbackHosts are the names of a listener on loopback.
func LoopbackHosts(a net.Addr) (Names, error) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return nil, fmt.Errorf("listener: %w", err)
	}
	if ap.Port() == 80 || ap.Port() == 443 {
		return nil, errors.New("host: wanted, because clients do not name a default port")
	}
	return Names{ap.String(): true, net.JoinHostPort("localhost", fmt.Sprint(ap.Port())): true}, nil
}

// Origins are the origins (RFC 6454 §6.2) of web pages that may connect.
func Origins(origins []string) (Names, error) {
	out := Names{}
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o {
			return nil, fmt.Errorf("origin %q: want scheme://host or scheme://host:port", o)
		}
		out[strings.ToLower(o)] = true
	}
	return out, nil
}

// IsLoopback says whether a listen address can be reached from this machine
// only.
func IsLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
