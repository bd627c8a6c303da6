package metrics

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chatvault/protocol/cmdline/admin/admintest"
	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/memhsm"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/memstore"
	"chatvault/vaultd/internal/session"
	"chatvault/vaultd/internal/uplink"
	"chatvault/vaultd/internal/vault"
)

type sessionsOf struct{}

func (sessionsOf) Len() int                     { return 3 }
func (sessionsOf) Count(e session.Event) uint64 { return uint64(e) + 1 }

type uplinksOf struct{}

func (uplinksOf) Len() int                    { return 2 }
func (uplinksOf) Count(e uplink.Event) uint64 { return uint64(e) + 1 }

// answers replies to each request with the next of its replies.
type answers struct{ replies [][]byte }

func (a *answers) Handle(context.Context, []byte) ([]byte, bool) {
	reply := a.replies[0]
	a.replies = a.replies[1:]
	return reply, true
}
func (*answers) End() {}

func TestOperations(t *testing.T) {
	m := New()
	refused := vaultmsg.Reply{Kind: vaultmsg.KRecoverFinish, Status: frame.WrongPassword, Charged: true}.Encode()
	unknown := vaultmsg.Reply{Kind: vaultmsg.KAbort, Status: frame.Status(60000)}.Encode()
	c := m.Conversation(&answers{[][]byte{refused, refused, unknown, nil}})
	for range 4 {
		if _, ring := c.Handle(t.Context(), []byte("what a client sends")); !ring {
			t.Error("a doorbell was lost")
		}
	}
	c.End()
	m.Count(vault.Charged)
	admintest.Want(t, m.Registry, map[string]string{
		"vaultd_ops_total code=wrong_password op=recover_finish": "2", "vaultd_op_seconds op=recover_finish": "2",
		"vaultd_ops_total code=ok op=abort": "0", "vaultd_op_seconds op=abort": "0",
		"vaultd_attempts_charged_total": "1", "vaultd_attempts_restored_total": "0", "vaultd_keys_destroyed_total": "0",
	})
	for name := range admintest.Samples(t, m.Registry) {
		if strings.Contains(name, "60000") {
			t.Errorf("a label that is from no closed set: %s", name)
		}
	}
}

func TestEveryRequestHasAName(t *testing.T) {
	for k := vaultmsg.KAuthorise; k <= vaultmsg.KCancel; k++ {
		if opNames[k] == "" {
			t.Errorf("kind %d has none", k)
		}
	}
}

func TestStore(t *testing.T) {
	m := New()
	faulty := recordstore.NewFaulty(memstore.New())
	s := m.Store(faulty)
	id := recordstore.ID{1}
	if _, err := s.Swap(t.Context(), id, 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Swap(t.Context(), id, 0, []byte("x")); !errors.Is(err, recordstore.ErrConflict) {
		t.Fatal(err)
	}
	if data, v, err := s.Load(t.Context(), id); string(data) != "x" || v != 1 || err != nil {
		t.Fatal(data, v, err)
	}
	if data, v, err := s.LoadStale(t.Context(), id); string(data) != "x" || v != 1 || err != nil {
		t.Fatal(data, v, err)
	}
	if ids, err := s.Scan(t.Context(), recordstore.ID{}, 9); len(ids) != 1 || err != nil {
		t.Fatal(ids, err)
	}
	if _, err := s.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Load(t.Context(), id); err == nil {
		t.Fatal("a closed store answers")
	}
	admintest.Want(t, m.Registry, map[string]string{
		"vaultd_store_seconds call=swap": "2", "vaultd_store_seconds call=load": "2", "vaultd_store_seconds call=load_stale": "1",
		"vaultd_store_seconds call=scan": "1", "vaultd_store_seconds call=position": "1",
		"vaultd_store_errors_total call=swap error=conflict": "1", "vaultd_store_errors_total call=swap error=unknown": "0",
		"vaultd_store_errors_total call=load error=failed": "1",
	})
	m.Store(unknowing{}).Swap(t.Context(), id, 0, nil)
	if got := admintest.Samples(t, m.Registry)["vaultd_store_errors_total call=swap error=unknown"]; got != "1" {
		t.Errorf("a swap in doubt: %s", got)
	}
}

type unknowing struct{ recordstore.Store }

func (unknowing) Swap(context.Context, recordstore.ID, recordstore.Version, []byte) (recordstore.Version, error) {
	return 0, fmt.Errorf("swap: %w", recordstore.ErrUnknown)
}

func TestHSM(t *testing.T) {
	m := New()
	module, err := memhsm.New()
	if err != nil {
		t.Fatal(err)
	}
	h := m.HSM(module)
	ctx := t.Context()
	wrapped, public, err := h.NewOPRFKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Evaluate(ctx, wrapped, public, public); err != nil {
		t.Error(err)
	}
	sealed, err := h.Seal(ctx, 1, nil, []byte("x"))
	if err != nil {
		t.Error(err)
	}
	if _, err := h.Open(ctx, 1, nil, sealed); err != nil {
		t.Error(err)
	}
	if _, err := h.Open(ctx, 1, []byte("elsewhere"), sealed); !errors.Is(err, hsm.ErrIntegrity) {
		t.Error(err)
	}
	noise, err := h.Public(ctx, hsm.Noise)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.DHX(ctx, hsm.Noise, noise); err != nil {
		t.Error(err)
	}
	if _, err := h.DH(ctx, hsm.Opaque, public); err != nil {
		t.Error(err)
	}
	if _, err := h.MAC(ctx, hsm.Lookup, nil); err != nil {
		t.Error(err)
	}
	if _, err := h.Sign(ctx, hsm.Receipt, [32]byte{}); err != nil {
		t.Error(err)
	}
	if err := h.Healthy(ctx); err != nil {
		t.Error(err)
	}
	got := admintest.Samples(t, m.Registry)
	for _, call := range hsmCalls {
		calls, errs := "1", "0"
		if call == hsmOpen {
			calls, errs = "2", "1"
		}
		if got["vaultd_hsm_seconds call="+call] != calls || got["vaultd_hsm_errors_total call="+call] != errs {
			t.Errorf("%s: %s calls, %s errors", call, got["vaultd_hsm_seconds call="+call], got["vaultd_hsm_errors_total call="+call])
		}
	}
}

func watching() *Metrics {
	m := New()
	m.Watch(Sources{
		Sessions: sessionsOf{}, Uplinks: uplinksOf{},
		HSM:   func() HSMState { return HSMState{Idle: 5, Busy: 3, Recoveries: 7, Recycles: 9} },
		Ready: map[string]func() bool{"hsm": func() bool { return true }, "store": func() bool { return false }},
	})
	return m
}

func TestWatch(t *testing.T) {
	m := watching()
	admintest.Want(t, m.Registry, map[string]string{
		"vaultd_sessions": "3", "vaultd_uplinks": "2",
		"vaultd_session_events_total event=opened": "1", "vaultd_uplink_events_total event=connected": "1",
		"vaultd_hsm_sessions state=idle": "5", "vaultd_hsm_sessions state=busy": "3",
		"vaultd_hsm_restarts_total cause=fault": "7", "vaultd_hsm_restarts_total cause=memory": "9",
		"vaultd_ready part=hsm": "1", "vaultd_ready part=store": "0",
	})
	got := admintest.Samples(t, m.Registry)
	for _, e := range session.Events() {
		if got["vaultd_session_events_total event="+e.String()] == "" {
			t.Errorf("%v is not shown", e)
		}
	}
}

// Names and help follow Prometheus' conventions.
func TestLint(t *testing.T) {
	admintest.Lint(t, watching().Registry, "vaultd_")
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		answer := make(chan error, 1)
		h := NewHealth(func(ctx context.Context) error {
			select {
			case err := <-answer:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		is := func(what string, want bool) {
			t.Helper()
			synctest.Wait()
			if h.Good() != want {
				t.Errorf("%s: %t", what, h.Good())
			}
		}
		answer <- nil
		go h.Run(ctx)
		is("it answers", true)
		answer <- errors.New("gone")
		time.Sleep(askEvery)
		is("it fails", false)
		answer <- nil
		time.Sleep(askEvery)
		is("it is back", true)
		time.Sleep(askEvery + askFor)
		is("it does not answer in time", false)
		cancel()
	})
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		h := NewHealth(func(context.Context) error { <-hung; return nil })
		ctx, cancel := context.WithCancel(t.Context())
		go h.Run(ctx)
		synctest.Wait()
		if !h.Good() {
			t.Error("not good before it was asked")
		}
		time.Sleep(staleAfter)
		if h.Good() {
			t.Error("good for ever, while its call hangs")
		}
		cancel()
		close(hung)
	})
}
