// Package stack runs the whole of chatvault on one machine, as real processes:
// vaultd on a fresh SoftHSM token with its records in Pebble, chatd, and a
// Redis, embedded or real. The demo, "make dev" and the end-to-end tests stand
// on it.
//
//	err := stack.Build(ctx, binDir)
//	s, err := stack.Start(ctx, stack.Options{Dir: dir, BinDir: binDir})
//	defer s.Close()
//
// What it makes is for throwing away: the token's PINs pass through command
// lines, and both signers' keys lie in one folder.
package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"chatvault/protocol/frame"
)

// What the stack is called.
const (
	Fleet  = "dev"             // fleet id
	App    = "app"             // the issuer's configured name
	Issuer = "https://app.dev" // the iss of its tickets
)

// startTimeout bounds how long one program takes until it listens.
const startTimeout = 60 * time.Second

// Redis says which Redis chatd uses.
type Redis int

// The kinds of Redis.
const (
	EmbeddedRedis Redis = iota // in chatd's own process
	RealRedis                  // a redis-server on a Unix socket
)

// Options of a stack. Dir and BinDir are required.
type Options struct {
	// Dir is an existing folder that takes everything: keys, records,
	// configuration, logs.
	Dir string
	// BinDir holds chatd and vaultd; see Build.
	BinDir string
	Redis  Redis
	// Pacing slows down recoveries from the sixth failure in a row on, and caps
	// what one account is charged in an hour. The stack runs without, unlike
	// vaultd by itself.
	Pacing bool
	// TwoVaults starts a second vault node on the same token and store, which
	// VaultArgs must name: Pebble belongs to one process.
	TwoVaults bool
	// TwoRelays starts a second chatd beside the first, for the same clients:
	// behind one name, or each by its own URL. They want a real Redis.
	TwoRelays bool
	// VaultArgs and ChatdArgs are further flags of "serve", which win over the
	// files that the stack writes.
	VaultArgs, ChatdArgs []string
}

// Stack is a running stack. Its daemons may be killed, stopped and started
// again: they come back at the same address with the same data.
type Stack struct {
	Dir    string
	BinDir string
	// PinsFile is what clients start from: --fleet of backupctl.
	PinsFile string
	// IssuerKeyFile is the private key that tickets are signed with, PEM.
	IssuerKeyFile string
	// PINFile is the HSM's PIN; tests look for it where it must not be.
	PINFile string

	Vault *Daemon
	// Second is the second vault node, or nil.
	Second *Daemon
	Chatd  *Daemon
	// SecondChatd is the second relay, or nil.
	SecondChatd *Daemon
	Redis       *Daemon // nil when it is embedded

	token     token
	vaultAddr *address
	nextAddr  *address // the second vault's
	chatdAddr *address
	relayAddr *address // the second chatd's
	redisDir  string
	issuer    issuer
}

// Start makes all keys and starts everything. After an error nothing runs.
func Start(ctx context.Context, o Options) (*Stack, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Stack{Dir: dir, BinDir: o.BinDir, vaultAddr: &address{}, nextAddr: &address{}, chatdAddr: &address{}, relayAddr: &address{}}
	if err := s.startAll(ctx, o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stack) startAll(ctx context.Context, o Options) error {
	if err := s.provision(ctx); err != nil {
		return fmt.Errorf("provision the vault: %w", err)
	}
	if err := s.writeVaultConfig(o); err != nil {
		return err
	}
	s.Vault = s.daemon("vaultd", s.vaultAddr, o.VaultArgs, s.token.environment())
	if err := s.start(ctx, s.Vault); err != nil {
		return err
	}
	if o.TwoVaults {
		s.Second = s.daemon("vaultd", s.nextAddr, o.VaultArgs, s.token.environment())
		s.Second.LogFile = s.file("vaultd-2.log")
		if err := s.start(ctx, s.Second); err != nil {
			return err
		}
	}
	redis := "embedded"
	if o.Redis == RealRedis {
		var err error
		if redis, err = s.startRedis(ctx); err != nil {
			return err
		}
	}
	if err := s.writeChatdConfig(redis); err != nil {
		return err
	}
	s.Chatd = s.daemon("chatd", s.chatdAddr, o.ChatdArgs, nil)
	if err := s.start(ctx, s.Chatd); err != nil || !o.TwoRelays {
		return err
	}
	s.SecondChatd = s.daemon("chatd", s.relayAddr, o.ChatdArgs, nil)
	s.SecondChatd.LogFile = s.file("chatd-2.log")
	return s.start(ctx, s.SecondChatd)
}

// URL is where clients connect: --url of backupctl.
func (s *Stack) URL() string { return "ws://" + s.chatdAddr.get() + frame.Path }

// ChatdAddr and VaultAddr are where the daemons listen, host:port.
func (s *Stack) ChatdAddr() string { return s.chatdAddr.get() }

// VaultAddr is where chatd's uplinks arrive.
func (s *Stack) VaultAddr() string { return s.vaultAddr.get() }

// SecondVaultAddr and SecondChatdAddr are the second ones', if there are any.
func (s *Stack) SecondVaultAddr() string { return s.nextAddr.get() }

// SecondChatdAddr is where the second chatd listens.
func (s *Stack) SecondChatdAddr() string { return s.relayAddr.get() }

// Close kills everything that still runs. The files in Dir stay.
func (s *Stack) Close() error {
	for _, d := range s.daemons() {
		if d != nil {
			_ = d.Kill() // it may have ended already
		}
	}
	if s.redisDir != "" {
		return os.RemoveAll(s.redisDir)
	}
	return nil
}

// Stop ends everything in order, each program with SIGTERM, and says which one
// did not end well.
func (s *Stack) Stop(ctx context.Context) error {
	var errs []error
	for _, d := range s.daemons() {
		if d != nil && d.Running() {
			errs = append(errs, d.Stop(ctx))
		}
	}
	return errors.Join(append(errs, s.Close())...)
}

// daemons are all, in the order in which they are ended; nil for what is not there.
func (s *Stack) daemons() []*Daemon {
	return []*Daemon{s.Chatd, s.SecondChatd, s.Vault, s.Second, s.Redis}
}

func (s *Stack) file(name string) string { return filepath.Join(s.Dir, name) }

func (s *Stack) start(ctx context.Context, d *Daemon) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return d.Start(ctx)
}

// daemon is chatd or vaultd with the configuration file of its name.
func (s *Stack) daemon(name string, at *address, args, env []string) *Daemon {
	return &Daemon{
		Name: name, LogFile: s.file(name + ".log"), ready: at.learn,
		command: func() *exec.Cmd {
			all := append([]string{"serve", "--config", s.file(name + ".yaml"), "--listen", at.get()}, args...)
			cmd := exec.Command(filepath.Join(s.BinDir, name), all...)
			cmd.Dir, cmd.Env = s.Dir, env
			return cmd
		},
	}
}

// startRedis starts a redis-server that keeps nothing on disk. A Unix socket's
// path has 107 bytes at most, which Dir alone may exceed.
func (s *Stack) startRedis(ctx context.Context) (url string, err error) {
	if s.redisDir, err = os.MkdirTemp("", "chatvault-redis-"); err != nil {
		return "", err
	}
	socket := filepath.Join(s.redisDir, "socket")
	s.Redis = &Daemon{
		Name: "redis-server", LogFile: s.file("redis.log"),
		ready: func(line []byte) bool {
			return strings.Contains(strings.ToLower(string(line)), "ready to accept connections")
		},
		command: func() *exec.Cmd {
			return exec.Command("redis-server", "--port", "0", "--unixsocket", socket,
				"--dir", s.redisDir, "--save", "", "--appendonly", "no")
		},
	}
	return "unix://" + socket, s.start(ctx, s.Redis)
}
