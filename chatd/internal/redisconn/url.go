package redisconn

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Kind says how a Redis is laid out.
type Kind int

// The kinds of Redis.
const (
	Embedded Kind = iota // in this process, for a single relay
	Single               // one server
	Sentinel             // a master, chosen by sentinels
	Cluster              // keys spread over several masters
)

var kindNames = [...]string{Embedded: "embedded", Single: "single", Sentinel: "sentinel", Cluster: "cluster"}

func (k Kind) String() string { return kindNames[k] }

// schemes says what the scheme of a URL means, and which port its addresses
// have when they name none.
var schemes = map[string]struct {
	kind Kind
	tls  bool
	port string
}{
	"redis":           {Single, false, "6379"},
	"rediss":          {Single, true, "6379"},
	"unix":            {Single, false, ""},
	"redis-sentinel":  {Sentinel, false, "26379"},
	"rediss-sentinel": {Sentinel, true, "26379"},
	"redis-cluster":   {Cluster, false, "6379"},
	"rediss-cluster":  {Cluster, true, "6379"},
}

// ErrPassword: a password stands in a URL, where everybody on the machine can
// read it.
var ErrPassword = errors.New("a password does not belong into a URL")

// Address is where a Redis is, as a URL says it.
type Address struct {
	Kind Kind
	// TLS is wanted of every server, sentinels included.
	TLS bool
	// Socket is the path of a Unix socket; then there are no Hosts.
	Socket string
	// Hosts are the server, the sentinels, or some nodes of the cluster, as
	// host:port.
	Hosts []string
	// Master is the name that the sentinels know the master by.
	Master string
	// User is the ACL user, empty for the default one.
	User string
	// DB is the number of the database; a cluster has only 0.
	DB int
}

// Parse reads "embedded" or one of these. No error repeats the text: it may
// hold a password.
//
//	redis://[user@]host[:port][/db]
//	unix://path
//	redis-sentinel://[user@]host[:port],host[:port],…/master[/db]
//	redis-cluster://[user@]host[:port],host[:port],…
//
// With rediss in the place of redis every connection is TLS.
func Parse(text string) (Address, error) {
	if text == "embedded" {
		return Address{Kind: Embedded}, nil
	}
	name, rest, ok := strings.Cut(text, "://")
	scheme, known := schemes[name]
	if !ok || !known {
		return Address{}, errors.New("want embedded, or a redis://, redis-sentinel:// or redis-cluster:// URL (rediss… for TLS), or unix://")
	}
	if strings.ContainsAny(rest, "?#") {
		return Address{}, errors.New("a URL of a Redis has no options behind a question mark here")
	}
	a := Address{Kind: scheme.kind, TLS: scheme.tls}
	if name == "unix" {
		if strings.Contains(rest, "@") {
			return Address{}, ErrPassword
		}
		if a.Socket = rest; !strings.HasPrefix(rest, "/") {
			return Address{}, errors.New("want the whole path of a socket after unix://")
		}
		return a, nil
	}
	authority, path, _ := strings.Cut(rest, "/")
	if err := a.parseUser(&authority); err != nil {
		return Address{}, err
	}
	if err := a.parseHosts(authority, scheme.port); err != nil {
		return Address{}, err
	}
	return a, a.parsePath(path)
}

// parseUser takes the user off the front of the authority.
func (a *Address) parseUser(authority *string) error {
	at := strings.LastIndexByte(*authority, '@')
	if at < 0 {
		return nil
	}
	user := (*authority)[:at]
	*authority = (*authority)[at+1:]
	if strings.Contains(user, ":") {
		return ErrPassword
	}
	var err error
	if a.User, err = url.PathUnescape(user); err != nil || a.User == "" {
		return errors.New("the user of a Redis is empty or badly escaped")
	}
	return nil
}

func (a *Address) parseHosts(list, port string) error {
	for host := range strings.SplitSeq(list, ",") {
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		name, number, err := net.SplitHostPort(host)
		if n, bad := strconv.ParseUint(number, 10, 16); err != nil || bad != nil || n == 0 || name == "" {
			return errors.New("an address of a Redis is not host:port")
		}
		a.Hosts = append(a.Hosts, host)
	}
	if a.Kind == Single && len(a.Hosts) != 1 {
		return fmt.Errorf("%d addresses: write redis-sentinel:// or redis-cluster:// for several", len(a.Hosts))
	}
	return nil
}

func (a *Address) parsePath(path string) (err error) {
	if a.Kind == Sentinel {
		if a.Master, path, _ = strings.Cut(path, "/"); a.Master == "" {
			return errors.New("want the master's name after the sentinels, as in redis-sentinel://a,b,c/mymaster")
		}
	}
	if path == "" {
		return nil
	}
	if a.DB, err = strconv.Atoi(path); err != nil || a.DB < 0 {
		return errors.New("the number of a Redis database is no number")
	}
	if a.Kind == Cluster && a.DB != 0 {
		return errors.New("a Redis Cluster has no database but 0")
	}
	return nil
}
