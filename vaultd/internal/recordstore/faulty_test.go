package recordstore_test

import (
	"context"
	"errors"
	"testing"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/memstore"
	"chatvault/vaultd/internal/recordstore/storetest"
)

func TestFaultyWithoutFaultsIsAStore(t *testing.T) {
	storetest.Run(t, storetest.Maker{New: func(*testing.T) recordstore.Store {
		return recordstore.NewFaulty(memstore.New())
	}})
}

func TestFaultyFailsTheNthCall(t *testing.T) {
	id := recordstore.ID{1}
	ctx := context.Background()
	for _, c := range []struct {
		fault  recordstore.Fault
		want   error
		stored bool
	}{
		{recordstore.NotDone, recordstore.ErrInjected, false},
		{recordstore.NotDoneUnknown, recordstore.ErrUnknown, false},
		{recordstore.Done, recordstore.ErrUnknown, true},
	} {
		f := recordstore.NewFaulty(memstore.New())
		f.FailAt(2, c.fault)
		if _, _, err := f.Load(ctx, id); err != nil {
			t.Errorf("call 1: %v", err)
		}
		if _, err := f.Swap(ctx, id, 0, []byte("x")); !errors.Is(err, c.want) {
			t.Errorf("fault %d: %v; want %v", c.fault, err, c.want)
		}
		if _, v, err := f.Load(ctx, id); (v == 1) != c.stored || err != nil {
			t.Errorf("fault %d: version %d, %v", c.fault, v, err)
		}
		if f.Calls() != 3 {
			t.Errorf("%d calls counted of 3", f.Calls())
		}
		for n, call := range []func() error{
			func() error { _, _, err := f.Load(ctx, id); return err },
			func() error { _, _, err := f.LoadStale(ctx, id); return err },
			func() error { _, err := f.Scan(ctx, recordstore.ID{}, 1); return err },
			func() error { _, err := f.Position(ctx); return err },
		} {
			f.Reset()
			f.FailAt(1, c.fault)
			if err := call(); !errors.Is(err, recordstore.ErrInjected) {
				t.Errorf("read %d, fault %d: %v", n, c.fault, err)
			}
			if err := call(); err != nil {
				t.Errorf("read %d after its fault: %v", n, err)
			}
		}
		f.Reset()
		f.FailAt(1, recordstore.Done)
		if _, err := f.Swap(ctx, id, 7, []byte("x")); !errors.Is(err, recordstore.ErrConflict) {
			t.Errorf("a conflict that was to be reported as unknown: %v", err)
		}
	}
}
