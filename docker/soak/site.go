//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"chatvault/docker/stack"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
)

// site is everything that is soaked: two relays behind one name, two vault
// nodes on one etcd, a redis-server, and between them links that can fail.
type site struct {
	*stack.Stack
	etcd  *exec.Cmd
	ended <-chan struct{} // etcd has
	pins  fleet.Pins

	front   *link    // from the phones to either relay
	uplinks [2]*link // from the relays to the vault nodes
	relays  [2]*stack.Daemon
	vaults  [2]*stack.Daemon
	turn    atomic.Uint64
}

// sessionIdle is how long the soaked vaults keep a session that nobody uses:
// short, so that what is left behind by a fault is gone when growth is measured.
const sessionIdle = 10 * time.Second

func startSite(ctx context.Context, dir, bin string) (_ *site, err error) {
	s := &site{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.front, err = newLink(s.relayAddrs); err != nil {
		return nil, err
	}
	for i := range s.uplinks {
		if s.uplinks[i], err = newLink(func() []string { return []string{s.vaultAddr(i)} }); err != nil {
			return nil, err
		}
	}
	all := []*link{s.front, s.uplinks[0], s.uplinks[1]}
	for _, l := range all {
		l.set(dark) // where it leads is known when the stack is up
	}
	store, err := s.startEtcd(ctx, dir, bin)
	if err != nil {
		return nil, err
	}
	s.Stack, err = stack.Start(ctx, stack.Options{
		Dir: dir, BinDir: bin, Redis: stack.RealRedis, TwoVaults: true, TwoRelays: true,
		VaultArgs: []string{"--store", "etcd:" + store, "--drain", "5s", "--session-idle", sessionIdle.String(), "--max-locks-per-hour", "100000",
			"--admin", "127.0.0.1:0", "--admin-pprof"},
		ChatdArgs: []string{
			"--host", s.front.addr(), "--vault", s.uplinks[0].addr(), "--vault", s.uplinks[1].addr(), "--drain", "3s",
			// Hundreds of people share one address here.
			"--limit", "ConnectionsPerIP=off,OpensPerAccount=off,ConnectionsPerAccount=off,OpensPerDevice=off,ConnectionsPerDevice=off",
			"--admin", "127.0.0.1:0", "--admin-pprof",
		},
	})
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		l.set(fair)
	}
	s.relays = [2]*stack.Daemon{s.Chatd, s.SecondChatd}
	s.vaults = [2]*stack.Daemon{s.Vault, s.Second}
	b, err := os.ReadFile(s.PinsFile)
	if err == nil {
		s.pins, err = fleet.ParsePins(b)
	}
	return s, err
}

func (s *site) close() error {
	var err error
	for _, l := range []*link{s.front, s.uplinks[0], s.uplinks[1]} {
		if l != nil {
			l.close()
		}
	}
	if s.Stack != nil {
		err = s.Stack.Close()
	}
	if s.etcd != nil {
		_ = s.etcd.Process.Kill() // it may have ended already
		<-s.ended
	}
	return err
}

// url is where phones connect.
func (s *site) url() string { return "ws://" + s.front.addr() + frame.Path }

// relayAddrs takes the relays in turn: a phone that comes back may come to the
// other one.
func (s *site) relayAddrs() []string {
	a, b := s.ChatdAddr(), s.SecondChatdAddr()
	if s.turn.Add(1)%2 == 0 {
		a, b = b, a
	}
	return []string{a, b}
}

func (s *site) vaultAddr(i int) string {
	if i == 0 {
		return s.VaultAddr()
	}
	return s.SecondVaultAddr()
}

// startEtcd starts one member and waits until it answers.
func (s *site) startEtcd(ctx context.Context, dir, bin string) (addr string, err error) {
	var addrs [2]string
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		addrs[i] = ln.Addr().String()
		ln.Close()
	}
	client, peer := "http://"+addrs[0], "http://"+addrs[1]
	log, err := os.Create(filepath.Join(dir, "etcd.log"))
	if err != nil {
		return "", err
	}
	defer log.Close()
	s.etcd = exec.Command(filepath.Join(bin, "etcd"), "--name", "one", "--data-dir", filepath.Join(dir, "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "one="+peer)
	s.etcd.Stdout, s.etcd.Stderr = log, log
	if s.ended, err = startBound(s.etcd); err != nil {
		s.etcd = nil
		return "", fmt.Errorf("start etcd (make bin/etcd): %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, client+"/health", nil)
		if err != nil {
			return "", err
		}
		if r, err := http.DefaultClient.Do(req); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return addrs[0], nil
			}
		}
		pause(ctx, 50*time.Millisecond)
	}
	return "", fmt.Errorf("etcd does not come up: %w", ctx.Err())
}

// pause waits, unless the context ends before.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
