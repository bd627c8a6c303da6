package redistest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Site is one Redis of any kind, as real processes.
type Site struct {
	// Password, if not empty, is wanted of every client.
	Password string
	// Servers are all that hold data, masters before replicas; Sentinels those
	// that watch them.
	Servers, Sentinels []*Process

	url string
}

// URL is how --redis names it.
func (s *Site) URL() string { return s.url }

// Stop kills the first server, as a crash would.
func (s *Site) Stop(t testing.TB) { s.Servers[0].Kill(t) }

// Start starts it again, without any key.
func (s *Site) Start(t testing.TB) { s.Servers[0].Start(t) }

// InStep waits until every replica has what its master has.
func (s *Site) InStep(t testing.TB) {
	t.Helper()
	for _, p := range s.Servers {
		Await(t, "replicas are in step", func() bool {
			info := p.Info(t, "replication")
			_, offset, _ := strings.Cut(info, "master_repl_offset:")
			offset, _, _ = strings.Cut(offset, "\r")
			return strings.Count(info, "state=online") == strings.Count(info, ",offset="+offset+",")
		})
	}
}

// Log shows what the processes have said.
func (s *Site) Log(t testing.TB) {
	t.Helper()
	for _, p := range append(s.Sentinels, s.Servers...) {
		t.Logf("%v:\n%s", p.args, p.text())
	}
}

// Close kills everything.
func (s *Site) Close() {
	for _, p := range append(s.Sentinels, s.Servers...) {
		p.close()
	}
}

// Single starts one server on a Unix socket.
func Single(t testing.TB, password string) *Site {
	p := newProcess(t, "--port", "0", "--requirepass", password)
	p.Start(t)
	return &Site{url: "unix://" + p.Socket, Password: password, Servers: []*Process{p}}
}

const masterName = "mymaster"

// Sentinels starts a master with two replicas, and three sentinels that make
// another one the master when it does not answer for half a second.
func Sentinels(t testing.TB) *Site {
	t.Helper()
	ports := freePorts(t, 6)
	s := &Site{}
	for i, port := range ports[:3] {
		args := []string{"--port", port, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"}
		if i > 0 {
			args = append(args, "--replicaof", "127.0.0.1 "+ports[0])
		}
		p := newProcess(t, args...)
		p.Start(t)
		s.Servers = append(s.Servers, p)
	}
	var addrs []string
	for _, port := range ports[3:] {
		p := newProcess(t, "--port", port, "--bind", "127.0.0.1", "--sentinel")
		p.config = fmt.Sprintf("sentinel monitor %s 127.0.0.1 %s 2\n"+
			"sentinel down-after-milliseconds %[1]s 500\nsentinel failover-timeout %[1]s 3000\n", masterName, ports[0])
		p.Start(t)
		s.Sentinels = append(s.Sentinels, p)
		addrs = append(addrs, "127.0.0.1:"+port)
	}
	s.url = "redis-sentinel://" + strings.Join(addrs, ",") + "/" + masterName
	// A failover needs the sentinels to know each other, and replicas in step.
	Await(t, "the sentinels know everything", func() bool {
		for _, p := range s.Sentinels {
			info := p.Info(t, "sentinel")
			if !strings.Contains(info, "status=ok") || !strings.Contains(info, "slaves=2,sentinels=3") {
				return false
			}
		}
		return strings.Count(s.Servers[0].Info(t, "replication"), "state=online") == 2
	})
	return s
}

// Steady has nobody take over any more, for tests that kill nothing: on a busy
// machine a server may well be silent for a second.
func (s *Site) Steady(t testing.TB) {
	t.Helper()
	for _, p := range s.Sentinels {
		p.Do(t, "SENTINEL", "SET", masterName, "down-after-milliseconds", 600_000)
	}
	for _, p := range s.Servers {
		if len(s.Sentinels) == 0 && len(s.Servers) > 1 {
			p.Do(t, "CONFIG", "SET", "cluster-node-timeout", 600_000)
		}
	}
}

const slots = 16384

// Cluster starts three masters, and a replica of the first one.
func Cluster(t testing.TB) *Site {
	t.Helper()
	ports := freePorts(t, 8)
	s := &Site{}
	for i := range 4 {
		p := newProcess(t, "--port", ports[i], "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", ports[4+i],
			"--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0",
			"--cluster-replica-validity-factor", "0")
		p.Start(t)
		s.Servers = append(s.Servers, p)
	}
	for i := range 3 {
		s.Servers[i].Do(t, "CLUSTER", "ADDSLOTSRANGE", slots*i/3, slots*(i+1)/3-1)
		s.Servers[i].Do(t, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
	}
	for i := 1; i < 4; i++ {
		s.Servers[0].Do(t, "CLUSTER", "MEET", "127.0.0.1", ports[i], ports[4+i])
	}
	everywhere := func(what string) {
		Await(t, what, func() bool {
			for _, p := range s.Servers {
				if info := p.Do(t, "CLUSTER", "INFO").(string); !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:4") {
					return false
				}
			}
			return true
		})
	}
	everywhere("the nodes know each other")
	s.Servers[3].Do(t, "CLUSTER", "REPLICATE", s.Servers[0].Do(t, "CLUSTER", "MYID"))
	Await(t, "the replica is in step", func() bool {
		return strings.Contains(s.Servers[0].Info(t, "replication"), "state=online") &&
			strings.Count(s.Servers[1].Do(t, "CLUSTER", "NODES").(string), "slave") == 1
	})
	everywhere("the cluster is whole")
	s.url = fmt.Sprintf("redis-cluster://127.0.0.1:%s,127.0.0.1:%s", ports[1], ports[2])
	return s
}

// Await polls a state that arrives by itself.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it never happened: %s", what)
		}
	}
}
