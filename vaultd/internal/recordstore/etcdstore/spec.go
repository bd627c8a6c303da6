package etcdstore

import (
	"fmt"
	"strings"

	"chatvault/vaultd/internal/recordstore/remote"
)

// Scheme begins the value of --store.
const Scheme = "etcd:"

// DefaultPrefix of all keys.
const DefaultPrefix = "chatvault"

// Spec is the value of --store:
//
//	etcd:host:port[,host:port…][/prefix]
//
// Members stand nearest first, see Options. The prefix is a name of a-z 0-9 _;
// without one it is DefaultPrefix.
type Spec struct {
	Endpoints []string
	Prefix    string
}

// Parse parses the value of --store. Errors wrap remote.ErrSpec. Whatever parses
// is what String gives back.
func Parse(s string) (Spec, error) {
	rest, ok := strings.CutPrefix(s, Scheme)
	if !ok {
		return Spec{}, fmt.Errorf("%w: want %shost:port,…/prefix", remote.ErrSpec, Scheme)
	}
	hosts, prefix, named := strings.Cut(rest, "/")
	if !named {
		prefix = DefaultPrefix
	} else if !remote.ValidName(prefix) || prefix == DefaultPrefix {
		return Spec{}, fmt.Errorf("%w: prefix %q: want a name of a-z 0-9 _, or none for %s", remote.ErrSpec, prefix, DefaultPrefix)
	}
	endpoints, err := remote.ParseEndpoints(hosts)
	if err != nil {
		return Spec{}, err
	}
	return Spec{Endpoints: endpoints, Prefix: prefix}, nil
}

// String writes the specification as Parse reads it.
func (s Spec) String() string {
	out := Scheme + strings.Join(s.Endpoints, ",")
	if s.Prefix != DefaultPrefix {
		out += "/" + s.Prefix
	}
	return out
}
