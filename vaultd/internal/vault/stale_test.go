package vault_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/vault"
)

// lagging is a store whose LoadStale shows what was: lag versions ago. It keeps the
// contract. The naive one answers every Load so, unless a swap of the record was
// just refused: to the vault this is as if it decided everything on stale reads,
// and loaded afresh only after a conflict.
type lagging struct {
	recordstore.Store
	lag   func(recordstore.Version) recordstore.Version // how many versions behind
	naive bool

	mu      sync.Mutex // guards all below
	was     map[recordstore.ID][][]byte
	refused map[recordstore.ID]bool
	stales  int
}

func newLagging(s recordstore.Store, lag func(recordstore.Version) recordstore.Version) *lagging {
	return &lagging{Store: s, lag: lag, was: make(map[recordstore.ID][][]byte), refused: make(map[recordstore.ID]bool)}
}

func (s *lagging) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stales++
	return s.behind(id)
}

// behind is called with mu held.
func (s *lagging) behind(id recordstore.ID) ([]byte, recordstore.Version, error) {
	now := recordstore.Version(len(s.was[id]))
	v := now - min(now, s.lag(now))
	if v == 0 {
		return nil, 0, nil
	}
	return append([]byte(nil), s.was[id][v-1]...), v, nil
}

func (s *lagging) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.naive && !s.refused[id] {
		return s.behind(id)
	}
	return s.Store.Load(ctx, id)
}

func (s *lagging) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.Store.Swap(ctx, id, expect, data)
	s.refused[id] = errors.Is(err, recordstore.ErrConflict)
	if err == nil {
		s.was[id] = append(s.was[id], append([]byte(nil), data...))
	}
	return v, err
}

func lags() map[string]func(recordstore.Version) recordstore.Version {
	return map[string]func(recordstore.Version) recordstore.Version{
		"never saw anything": func(now recordstore.Version) recordstore.Version { return now },
		"the first for ever": func(now recordstore.Version) recordstore.Version { return max(now, 1) - 1 },
		"one behind":         func(recordstore.Version) recordstore.Version { return 1 },
		"two behind":         func(recordstore.Version) recordstore.Version { return 2 },
		"now and then":       func(now recordstore.Version) recordstore.Version { return rand.N(now + 1) },
		"not at all":         func(recordstore.Version) recordstore.Version { return 0 },
	}
}

// staleStory is every answer for which a stale record would give another. It
// returns the first that is wrong.
func staleStory(w *world) (wrong string) {
	expect := func(what string, r vaultmsg.Reply, status frame.Status, left int) {
		if wrong == "" && (r.Status != status || int(r.Left) != left) {
			wrong = fmt.Sprintf("%s: %s with %d left, want %s with %d", what, r.Status, r.Left, status, left)
		}
	}
	p := w.phone("anna")
	expect("nothing registered", p.recover("1234"), frame.NotRegistered, 0)
	expect("register", p.register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	expect("wrong", p.recover("0000"), frame.WrongPassword, 9)

	open := p.try("1111")
	expect("charged", open.ke1(), frame.OK, 8)
	p.session()
	expect("open: it goes on", open.ke1(), frame.OK, 8)
	expect("its verdict", p.send(vaultmsg.Abort{}), frame.WrongPassword, 8)
	expect("closed: it goes on", open.ke1(), frame.OK, 8)
	expect("its verdict", p.send(vaultmsg.Abort{}), frame.WrongPassword, 8)
	expect("right", p.recover("1234"), frame.OK, 10)

	late := p.try("2222")
	expect("charged", late.ke1(), frame.OK, 9)
	p.session()
	for left := 8; left > 0; left-- {
		expect("wrong", p.recover("0000"), frame.WrongPassword, left)
	}
	last := w.phone("anna").try("3333")
	expect("the tenth", last.ke1(), frame.OK, 0)
	expect("locked", p.recover("1234"), frame.Locked, 0)
	expect("locked: the open one goes on", late.ke1(), frame.OK, 0)
	expect("its verdict", p.send(vaultmsg.Abort{}), frame.WrongPassword, 0)
	expect("the last verdict", last.p.send(vaultmsg.Abort{}), frame.Destroyed, 0)
	expect("destroyed", p.recover("1234"), frame.Destroyed, 0)
	expect("registering over it", p.register(vaultmsg.PurposeRegister, 1, "5678"), frame.OK, 10)
	expect("right", p.recover("5678"), frame.OK, 10)
	expect("delete", p.send(vaultmsg.Delete{Generation: 2}), frame.OK, 0)
	expect("deleted", p.recover("5678"), frame.NotRegistered, 0)
	if wrong == "" && w.hsm.uncharged > 0 {
		wrong = fmt.Sprintf("%d evaluations were not charged", w.hsm.uncharged)
	}
	return wrong
}

// TestNothingIsAnsweredFromAStaleRead: whatever LoadStale shows, all answers are
// those of a fresh store.
func TestNothingIsAnsweredFromAStaleRead(t *testing.T) {
	for name, lag := range lags() {
		t.Run(name, func(t *testing.T) {
			if wrong := staleStory(newWorld(t, func(c *vault.Config) { c.Store = newLagging(c.Store, lag) })); wrong != "" {
				t.Error(wrong)
			}
		})
	}
}

// A vault that answers from stale reads is caught by the same story.
func TestAnswersFromStaleReadsAreCaught(t *testing.T) {
	for name, lag := range lags() {
		if name == "not at all" {
			continue // stale in name only
		}
		t.Run(name, func(t *testing.T) {
			wrong := staleStory(newWorld(t, func(c *vault.Config) {
				s := newLagging(c.Store, lag)
				s.naive = true
				c.Store = s
			}))
			if wrong == "" {
				t.Error("not caught")
			}
		})
	}
}

// TestStaleReadsDoNotMultiplyGuesses: ten distinct elements at most, however many
// try at once and whatever they see.
func TestStaleReadsDoNotMultiplyGuesses(t *testing.T) {
	for name, lag := range lags() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *vault.Config) { c.Store = newLagging(c.Store, lag) })
			w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
			var wg sync.WaitGroup
			for i := range 40 {
				p := w.phone("anna")
				wg.Go(func() { p.recover(fmt.Sprintf("wrong %d", i)) })
			}
			wg.Wait()
			if n := w.hsm.evaluations(); n != 10 || w.hsm.uncharged != 0 {
				t.Errorf("%d distinct elements were evaluated, want 10; %d uncharged", n, w.hsm.uncharged)
			}
		})
	}
}

// TestOnlyChargesAndSweepsReadStale: every other answer is decided on a Load from the
// start.
func TestOnlyChargesAndSweepsReadStale(t *testing.T) {
	var s *lagging
	w := newWorld(t, func(c *vault.Config) {
		s = newLagging(c.Store, func(recordstore.Version) recordstore.Version { return 0 })
		c.Store = s
	})
	stales := func(what string, want int) {
		t.Helper()
		if s.stales != want {
			t.Errorf("%s: %d stale reads so far, want %d", what, s.stales, want)
		}
	}
	p := w.phone("anna")
	p.register(vaultmsg.PurposeRegister, 0, "1234")
	p.status()
	w.phone("anna").send(vaultmsg.Claim{What: vaultmsg.ClaimReplace, Generation: 1})
	stales("register, status, claim", 0)
	if _, err := w.vault.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	stales("a sweep of one record", 1)
	a := p.try("1234")
	r := a.ke1()
	stales("KE1", 2)
	m, _ := a.ke3(r)
	p.send(m)
	p.send(vaultmsg.Delete{Generation: 1})
	stales("KE3, delete", 2)
}
