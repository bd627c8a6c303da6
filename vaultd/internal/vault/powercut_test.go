package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/pebblestore"
	"chatvault/vaultd/internal/vault"
)

// place is where a record is in its life.
type place struct {
	state      record.State // 0: there is none
	generation uint64
}

// cut is a disk as a power cut left it, and what was true at that moment.
type cut struct {
	at        string
	disk      *vfs.MemFS
	acked     []byte         // anna's record as of the last swap that was acknowledged
	doubt     []byte         // as of the swap under way, or nil
	evaluated map[string]int // by wrapped key: distinct elements, the registration's not counted
	base      map[uint64]uint64
}

// powerCuts runs a vault on Pebble on a disk that remembers what was synced, cuts
// its power at every sync and after every swap, and keeps what is wrong with what
// is left: with all that was not synced lost, and with a random part of it kept.
type powerCuts struct {
	t    *testing.T
	w    *world
	mem  *vfs.MemFS
	rng  *rand.Rand
	id   recordstore.ID // anna's
	at   string         // the step of the story
	open *try           // the right password, in an attempt that has no verdict yet

	before, after place             // of the step
	base          map[uint64]uint64 // by generation: the highest charge whose KE3 was right

	mu           sync.Mutex // guards what follows
	acked, doubt []byte
	cuts         []cut
	taken        int
	wrong        []string
}

// watchedStore tells of every swap.
type watchedStore struct {
	recordstore.Store
	p *powerCuts
}

func (s watchedStore) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	if id == s.p.id {
		s.p.note(nil, data)
	}
	v, err := s.Store.Swap(ctx, id, expect, data)
	if id == s.p.id && err == nil {
		s.p.note(data, nil)
	}
	s.p.cut()
	return v, err
}

func (p *powerCuts) note(acked, doubt []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.doubt = bytes.Clone(doubt); acked != nil {
		p.acked = bytes.Clone(acked)
	}
}

func newPowerCuts(t *testing.T, wrap func(vfs.FS) vfs.FS) *powerCuts {
	p := &powerCuts{t: t, mem: vfs.NewCrashableMem(), rng: rand.New(rand.NewPCG(1, 2)), base: map[uint64]uint64{}}
	fs := errorfs.Wrap(wrap(p.mem), errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			p.cut()
		}
		return nil
	}))
	p.w = newWorld(t, func(c *vault.Config) {
		c.Store.(*recordstore.Faulty).Store = watchedStore{openPebble(t, fs), p}
	})
	t.Cleanup(func() { p.w.store.Store.(watchedStore).Close() })
	var err error
	if p.id, err = vault.RecordID(p.w.hsm.Module, ticket.Account{Issuer: "app", Subject: "anna"}); err != nil {
		t.Fatal(err)
	}
	p.cuts = nil // of an empty store being made
	return p
}

func openPebble(t *testing.T, fs vfs.FS) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Open("store", pebblestore.Options{Create: true, FS: fs, CacheSize: 1 << 20,
		Log: slog.New(slog.DiscardHandler), Fatal: func(err error) { t.Errorf("fatal: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// cut cuts the power, twice over, and lets the world go on as if it had not.
func (p *powerCuts) cut() {
	if p.w == nil {
		return // the vault is not open yet
	}
	evaluated := map[string]int{}
	p.w.hsm.mu.Lock()
	for key, list := range p.w.hsm.evaluated {
		evaluated[key] = len(list) - 1
	}
	p.w.hsm.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	base := map[uint64]uint64{}
	for g, b := range p.base {
		base[g] = b
	}
	for _, kept := range []int{0, 50} {
		p.cuts = append(p.cuts, cut{at: fmt.Sprintf("%s, cut %d with %d %% kept", p.at, len(p.cuts)/2, kept),
			disk: p.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: p.rng}), acked: p.acked, doubt: p.doubt, evaluated: evaluated, base: base})
	}
}

// step does a part of the story, after which anna's record is at the place given,
// and looks at what every cut in it has left.
func (p *powerCuts) step(name string, after place, do func()) {
	p.at, p.after = name, after
	do()
	p.look()
	p.before = after
	p.at += ", done"
	p.cut()
	p.look()
}

func (p *powerCuts) look() {
	p.mu.Lock()
	cuts := p.cuts
	p.cuts = nil
	p.mu.Unlock()
	p.taken += len(cuts)
	for _, c := range cuts {
		if said := p.check(c); said != "" {
			p.wrong = append(p.wrong, c.at+": "+said)
		}
	}
}

// check opens what a cut has left, with the same HSM, and holds it against both
// promises. It says what is wrong, or nothing.
func (p *powerCuts) check(c cut) string {
	store := openPebble(p.t, c.disk)
	defer store.Close()
	data, _, err := store.Load(p.t.Context(), p.id)
	if err != nil {
		return fmt.Sprintf("load: %v", err)
	}
	if !bytes.Equal(data, c.acked) && (c.doubt == nil || !bytes.Equal(data, c.doubt)) {
		return "the record is neither what was acknowledged nor what was under way"
	}
	module := p.w.hsm.Module
	r, err := vault.Stored(fleet, store, module, ticket.Account{Issuer: "app", Subject: "anna"})
	if err != nil {
		return fmt.Sprintf("stored: %v", err)
	}
	is := place{}
	if r != nil {
		is = place{r.State, r.Generation}
	}
	live := r != nil && r.State == record.Live
	switch {
	case is != p.before && is != p.after:
		return fmt.Sprintf("the record is at %v, want %v or %v", is, p.before, p.after)
	case r != nil && !live && (r.Wrap != [128]byte{} || r.OPRFKey != [80]byte{}):
		return "a wrapped key without a live record"
	case live && uint64(c.evaluated[string(r.OPRFKey[:])]) > r.Charges:
		return fmt.Sprintf("%d elements were evaluated, %d are charged", c.evaluated[string(r.OPRFKey[:])], r.Charges)
	case live && r.Base > c.base[r.Generation]:
		return fmt.Sprintf("restored to charge %d, the last right KE3 was of charge %d", r.Base, c.base[r.Generation])
	case live && (r.Left() > 0 || p.open != nil):
		return p.recovers(store, r)
	}
	return ""
}

// recovers is the mirror: whoever types the right password gets the key. If that
// was under way, the same blind goes on, though no attempt is left.
func (p *powerCuts) recovers(store recordstore.Store, r *record.Record) string {
	watch := &watchedHSM{Module: p.w.hsm.Module, charges: func() (string, int) { return "", 0 }}
	w := p.w.beside(func(c *vault.Config) { c.Store, c.HSM = store, watch })
	w.hsm = watch
	phone := w.phone("anna")
	a := phone.try(password(r.Generation))
	if p.open != nil {
		phone.key = p.open.p.key
		phone.session()
		a = &try{p: phone, input: p.open.input, blind: p.open.blind}
	}
	m, _ := a.ke3(a.ke1())
	if reply := phone.send(m); reply.Status != frame.OK {
		return fmt.Sprintf("the right password got %s", reply.Status)
	}
	return ""
}

func password(generation uint64) string { return fmt.Sprintf("password %d", generation) }

// unsynced never syncs Pebble's log: a store that acknowledges what is written.
type unsynced struct{ vfs.FS }

func (f unsynced) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	if err != nil || f.PathBase(name)[0] < '0' || f.PathBase(name)[0] > '9' {
		return file, err
	}
	return neverSynced{file}, nil
}

type neverSynced struct{ vfs.File }

func (neverSynced) Sync() error                { return nil }
func (neverSynced) SyncData() error            { return nil }
func (neverSynced) SyncTo(int64) (bool, error) { return false, nil }

// TestPowerCutAtEveryStepOfEveryTransition: whatever the vault does with a record,
// and wherever in it the power goes, both promises hold afterwards.
func TestPowerCutAtEveryStepOfEveryTransition(t *testing.T) {
	p := newPowerCuts(t, func(fs vfs.FS) vfs.FS { return fs })
	p.story()
	for _, said := range p.wrong {
		t.Error(said)
	}
	if t.Logf("%d power cuts", p.taken); p.taken < 200 {
		t.Errorf("only %d power cuts", p.taken)
	}
}

// TestPowerCutsCatchAStoreThatDoesNotSync is the negative control.
func TestPowerCutsCatchAStoreThatDoesNotSync(t *testing.T) {
	p := newPowerCuts(t, func(fs vfs.FS) vfs.FS { return unsynced{fs} })
	p.story()
	if len(p.wrong) < p.taken/4 {
		t.Errorf("only %d of %d power cuts were found to lose something", len(p.wrong), p.taken)
	}
}
