package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/cmdline/logtest"
)

// TestMain lets the test binary be chatd, so that tests run the real program
// with its real signals and exit codes.
func TestMain(m *testing.M) {
	if os.Getenv("CHATD_TEST_MAIN") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// site holds the files of one installation.
type site struct {
	t      testing.TB
	dir    string
	pki    *chatdtest.PKI
	issuer *chatdtest.Issuer
	vault  *chatdtest.Vault
	// settings is the configuration by name.
	settings map[string]any
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), pki: chatdtest.NewPKI(t), issuer: chatdtest.NewIssuer(t)}
	s.vault = chatdtest.StartVault(t, s.pki, 1, uplink.VaultRole)
	certFile, keyFile := s.pki.Issue(uplink.ChatRole)
	s.settings = map[string]any{
		"listen": "127.0.0.1:0",
		"vault":  []string{s.vault.Addr}, "vault-links": 1, "vault-ca": s.pki.CAFile, "vault-cert": certFile, "vault-key": keyFile,
		"fleet": chatdtest.Fleet, "fleet-bundle": s.file("bundle", chatdtest.Bundle(t, 7), 0o644),
		"issuers":   s.issuer.Config,
		"log-level": "debug",
	}
	return s
}

func (s *site) file(name string, b []byte, mode os.FileMode) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, b, mode); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// config writes the settings as YAML: each value as JSON, which is YAML too.
func (s *site) config() string {
	s.t.Helper()
	var b bytes.Buffer
	for name, value := range s.settings {
		if name == "issuers" {
			c := s.issuer.Config[0]
			value = []map[string]any{{"name": c.Name, "issuers": c.Issuers, "key-file": c.KeyFile}}
		}
		j, err := json.Marshal(value)
		if err != nil {
			s.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s: %s\n", name, j)
	}
	return s.file("chatd.yaml", b.Bytes(), 0o644)
}

// program is a chatd that runs.
type program struct {
	t    testing.TB
	cmd  *exec.Cmd
	addr string
	log  *logtest.Log
	over chan struct{} // closed when it has ended
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "CHATD_TEST_MAIN=1")
	return cmd
}

// serve starts chatd and returns when it listens.
func (s *site) serve(args ...string) *program {
	s.t.Helper()
	p := &program{t: s.t, log: logtest.New(), over: make(chan struct{})}
	p.cmd = command(append([]string{"serve", "--config", s.config()}, args...)...)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.cmd.Wait() // exited reads the exit code
		p.log.End()
		close(p.over)
	}()
	s.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.over
	})
	p.addr, _ = p.await("listening")["address"].(string)
	p.await("uplink is up")
	return p
}

// await returns the first line of the log with this message.
func (p *program) await(msg string) map[string]any {
	p.t.Helper()
	return p.log.Await(p.t, msg)
}

func (p *program) text() string { return p.log.String() }

// stop sends SIGTERM.
func (p *program) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
}

// exited waits for the end and returns the exit code.
func (p *program) exited() int {
	p.t.Helper()
	select {
	case <-p.over:
	case <-time.After(time.Minute):
		p.t.Fatalf("chatd does not end:\n%s", p.text())
	}
	return p.cmd.ProcessState.ExitCode()
}

// run runs a command line in this process.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut strings.Builder
	a := app
	a.IO = cmdline.IO{Out: &out, Err: &errOut}
	code = a.Run(t.Context(), new(grammar), args, arguments(args))
	return code, out.String(), errOut.String()
}
