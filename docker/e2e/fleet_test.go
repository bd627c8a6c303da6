package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/docker/stack"
	"chatvault/protocol/frame"
)

// etcd starts one member of the nested module's server and returns its address.
func etcd(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	server := filepath.Join(dir, "etcd")
	build := exec.Command("go", "build", "-o", server, ".")
	build.Dir = filepath.Join(root, "vaultd", "internal", "recordstore", "engines", "etcdserver")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building etcd: %v\n%s", err, out)
	}
	addr, peer := freeAddr(t), freeAddr(t)
	cmd := exec.Command(server, "--name", "one", "--data-dir", filepath.Join(dir, "data"),
		"--listen-client-urls", "http://"+addr, "--advertise-client-urls", "http://"+addr,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer,
		"--initial-cluster", "one=http://"+peer)
	log := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("etcd:\n%s", log.Bytes())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if r, err := http.Get("http://" + addr + "/health"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return addr
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("etcd does not come up")
		}
	}
}

func freeAddr(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// twoVaults is a house with two vault nodes on one etcd.
func twoVaults(t *testing.T) *house {
	store := etcd(t)
	return start(t, func(o *stack.Options) {
		o.TwoVaults = true
		o.VaultArgs = append(o.VaultArgs, "--store", "etcd:"+store)
	})
}

// TestTheOtherNodeGoesOn: the node that has charged and evaluated is killed before
// KE3. The client begins anew on the other, and its element goes on uncharged.
func TestTheOtherNodeGoesOn(t *testing.T) {
	h := twoVaults(t)
	key := h.registered("anna", "1234")
	var killed atomic.Pointer[stack.Daemon]
	h.relay.lies(func(d direction, f frame.Frame) verdict {
		data, ok := f.(frame.Data)
		if !ok || d != toPhone || data.Sequence != 2 || killed.Load() != nil {
			return pass
		}
		node := data.Session.Node()
		for _, v := range []*stack.Daemon{h.Vault, h.Second} {
			log, err := v.Logs()
			if err != nil {
				t.Error(err)
			}
			if bytes.Contains(log, fmt.Appendf(nil, `"node":"%x"`, node)) {
				killed.Store(v)
				if err := v.Kill(); err != nil {
					t.Error(err)
				}
				return drop
			}
		}
		t.Errorf("no vault has node id %x", node)
		return pass
	})
	got, err := h.phone("anna").Recover(t.Context(), password("1234"))
	if err != nil || !got.Key.Equal(key.Key) || got.FailuresBefore != 0 || got.AttemptsLeft != 10 {
		t.Errorf("recover: %+v, %v", got, err)
	}
	if killed.Load() == nil {
		t.Fatal("no node was killed")
	}
	h.relay.lies(nil)
	s, err := h.phone("anna").Status(t.Context())
	if err != nil || s.AttemptsLeft != 10 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := killed.Load().Start(t.Context()); err != nil {
		t.Error("the node comes back:", err)
	}
}

// TestTwoNodesCountOnce: guesses at one account come to both nodes at once.
func TestTwoNodesCountOnce(t *testing.T) {
	h := twoVaults(t)
	h.registered("anna", "1234")
	var wg sync.WaitGroup
	var charged, refused atomic.Int32
	for i := range 40 {
		p := h.phone("anna")
		wg.Go(func() {
			_, err := p.Recover(t.Context(), password(fmt.Sprintf("guess %d", i)))
			var e *client.Error
			switch {
			case errors.As(err, &e) && e.Charged && (errors.Is(err, client.ErrWrongPassword) || errors.Is(err, client.ErrDestroyed)):
				charged.Add(1)
			case errors.Is(err, client.ErrLocked), errors.Is(err, client.ErrDestroyed):
				refused.Add(1)
			default:
				t.Errorf("guess %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if charged.Load() != 10 || refused.Load() != 30 {
		t.Errorf("%d charged, %d refused; want 10 and 30", charged.Load(), refused.Load())
	}
}
