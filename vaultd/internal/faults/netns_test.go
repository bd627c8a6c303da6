//go:build fault

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
)

// network is a network namespace for each member, and one in the middle that
// routes between them and to this machine. It needs root and iproute2.
type network struct {
	t    *testing.T
	name string // of its namespaces, with a suffix
	net  string // the first three bytes of all addresses
}

// networks counts those of this process.
var networks atomic.Uint32

// freeNet picks addresses that this machine does not have.
func freeNet(t *testing.T) string {
	t.Helper()
	used, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for {
		prefix := fmt.Sprintf("198.18.%d.", 1+rand.IntN(250))
		if !slices.ContainsFunc(used, func(a net.Addr) bool { return strings.HasPrefix(a.String(), prefix) }) {
			return prefix
		}
	}
}

// newNetwork lays the cables:
//
//	this machine .1 ── .2 hub
//	member i  .(4i+6) ── .(4i+5) hub
func newNetwork(t *testing.T, members int) *network {
	t.Helper()
	// 198.18.0.0/15 is kept for such tests (RFC 2544, appendix C.2.2).
	n := &network{t: t, name: fmt.Sprintf("cv%dx%d", os.Getpid(), networks.Add(1)), net: freeNet(t)}
	hub, uplink := n.name+"h", n.name+"u"
	n.must("netns add " + hub)
	t.Cleanup(func() { n.run("netns del " + hub) })
	t.Cleanup(func() { n.run("link del " + uplink) })
	n.must("link add " + uplink + " type veth peer name eth0 netns " + hub)
	n.must("addr add " + n.net + "1/30 dev " + uplink)
	n.must("link set " + uplink + " up")
	n.must("-n " + hub + " addr add " + n.net + "2/30 dev eth0")
	n.must("-n " + hub + " link set eth0 up")
	n.must("route add " + n.net + "0/24 via " + n.net + "2")
	for i := range members {
		member, link := n.member(i), "m"+strconv.Itoa(i)
		n.must("netns add " + member)
		t.Cleanup(func() { n.run("netns del " + member) })
		n.must("-n " + hub + " link add " + link + " type veth peer name eth0 netns " + member)
		n.must("-n " + hub + " addr add " + n.host(i, 5) + "/30 dev " + link)
		n.must("-n " + hub + " link set " + link + " up")
		n.must("-n " + member + " addr add " + n.host(i, 6) + "/30 dev eth0")
		n.must("-n " + member + " link set lo up")
		n.must("-n " + member + " link set eth0 up")
		n.must("-n " + member + " route add default via " + n.host(i, 5))
	}
	forward := exec.Command("nsenter", "--net=/run/netns/"+hub, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	if out, err := forward.CombinedOutput(); err != nil {
		t.Fatalf("routing in a network namespace (needs root): %v: %s", err, out)
	}
	return n
}

func (n *network) member(i int) string { return n.name + "m" + strconv.Itoa(i) }

func (n *network) host(i, offset int) string { return n.net + strconv.Itoa(4*i+offset) }

// commandLimit is how long a command may take that sets up a network.
const commandLimit = 30 * time.Second

func (n *network) run(args string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

func (n *network) must(args string) {
	n.t.Helper()
	if err := n.run(args); err != nil {
		n.t.Fatalf("laying a network (needs root and iproute2): %v", err)
	}
}

// options start each member in its namespace.
func (n *network) options() etcdcluster.Options {
	return etcdcluster.Options{
		Host: func(i int) string { return n.host(i, 6) },
		Wrap: func(i int, argv []string) []string {
			return append([]string{"nsenter", "--net=/run/netns/" + n.member(i)}, argv...)
		},
	}
}

// cable plugs a member's only cable in, or pulls it out: nobody reaches it, its
// clients neither.
func (n *network) cable(i int, state string) func() error {
	return func() error { return n.run("-n " + n.member(i) + " link set eth0 " + state) }
}

// cut has packets between a member and others vanish, or (with "del") no longer.
// Clients still reach it: an old leader that answers them is the danger.
func (n *network) cut(what string, i int, from ...int) func() error {
	return func() error {
		var failed []error
		for _, j := range from {
			failed = append(failed, n.run("-n "+n.member(i)+" route "+what+" blackhole "+n.host(j, 6)+"/32"))
		}
		return errors.Join(failed...)
	}
}

// unplug pulls a member's cable.
func (n *network) unplug(i int) Fault {
	replug := func() error {
		if err := n.cable(i, "up")(); err != nil {
			return err
		}
		return n.run("-n " + n.member(i) + " route add default via " + n.host(i, 5)) // gone with the link
	}
	return Fault{"no cable", n.cable(i, "down"), replug, partitioned}
}

// alone has a member reach its clients, but no other member.
func (n *network) alone(i, members int) Fault {
	others := slices.DeleteFunc(upTo(members), func(j int) bool { return i == j })
	return Fault{"no peers", n.cut("add", i, others...), n.cut("del", i, others...), partitioned}
}

// partitioned is how long a network stays broken: longer than an election takes.
var partitioned = [2]time.Duration{1500 * time.Millisecond, 3500 * time.Millisecond}

// upTo is 0, 1, …, n−1.
func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

func TestEtcdOnABrokenNetwork(t *testing.T) {
	for _, members := range []int{3, 5} {
		for seed := range seedsOf(1, 5) {
			t.Run(fmt.Sprintf("%d/%d", members, seed), func(t *testing.T) {
				n := newNetwork(t, members)
				c := newCluster(t, members, n.options(), false)
				leader := func(f func(i int) Fault) func(*rand.Rand) Fault {
					return func(rng *rand.Rand) Fault {
						i, err := c.Leader()
						if err != nil {
							i = rng.IntN(members)
						}
						return f(i)
					}
				}
				oneLink := func(rng *rand.Rand) Fault {
					i := c.some(rng)
					j := (i + 1 + rng.IntN(members-1)) % members
					return Fault{"one link", n.cut("add", i, j), n.cut("del", i, j), partitioned}
				}
				some := func(rng *rand.Rand) Fault { return n.alone(c.some(rng), members) }
				isolated := leader(func(i int) Fault { f := n.alone(i, members); f.Name = "isolated leader"; return f })
				x := c.trial(uint64(members)+seed, inTurn(seed, isolated, leader(n.unplug), oneLink, some))
				x.prove(t)
			})
		}
	}
}
