package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/rules"
)

// A stored record is laid out as package vault does it: format, epoch, and the
// sealed record.
const (
	storedHeader = 1 + 4
	storedSize   = storedHeader + record.Size + hsm.SealOverhead
)

// clients is how many charges are under way at a time.
const clients = 64

// charger charges accounts in a store as vaultd does, without OPAQUE, and with
// AES-GCM in this process for the HSM.
type charger struct {
	store recordstore.Store
	aead  cipher.AEAD
	owner vaultmsg.Thumbprint
	rules rules.Params

	buffers sync.Pool // of *[storedSize]byte, to seal in
}

func newCharger(store recordstore.Store) (*charger, error) {
	var key [32]byte
	rand.Read(key[:]) // never fails: crypto/rand ends the process instead
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	c := &charger{store: store, aead: aead, rules: rules.Defaults()}
	c.buffers.New = func() any { return new([storedSize]byte) }
	rand.Read(c.owner[:])
	return c, nil
}

// accountID spreads the accounts as the keyed hash of the real ids does.
func accountID(account int) recordstore.ID {
	rng := mathrand.New(mathrand.NewPCG(uint64(account), 0x6964))
	var id recordstore.ID
	binary.BigEndian.PutUint64(id[:], rng.Uint64())
	binary.BigEndian.PutUint64(id[8:], rng.Uint64())
	return id
}

// register makes an account's first record.
func (c *charger) register(ctx context.Context, account int) error {
	id := accountID(account)
	r := record.Record{State: record.Live, Generation: 1, Owner: c.owner, RegisteredBy: c.owner}
	rand.Read(r.OPRFKey[:])
	rand.Read(r.OPAQUE[:])
	_, err := c.store.Swap(ctx, id, 0, c.seal(nil, id, 1, &r))
	return err
}

// charge charges a new attempt of an account, and again from the load on while
// others win the swap.
func (c *charger) charge(ctx context.Context, account int) error {
	id := accountID(account)
	var a rules.Attempt
	rand.Read(a.ID[:])
	a.Device = c.owner
	for load := c.store.LoadStale; ; load = c.store.Load { // as package vault does it
		done, err := c.try(ctx, load, id, a)
		if done || err != nil {
			return err
		}
	}
}

type loadFunc func(context.Context, recordstore.ID) ([]byte, recordstore.Version, error)

func (c *charger) try(ctx context.Context, load loadFunc, id recordstore.ID, a rules.Attempt) (done bool, err error) {
	sealed, version, err := load(ctx, id)
	if err != nil {
		return false, err
	}
	r, err := c.open(id, version, sealed)
	if err != nil {
		return false, err
	}
	now := time.Now()
	if r.Left() == 1 { // or the account would soon be locked, and there would be nothing to measure
		last := r.Entries[len(r.Entries)-1]
		rules.Restore(r, rules.Attempt{ID: last.Attempt, Device: c.owner}, r.Generation, last.Charge, now)
	}
	if _, v := rules.Charge(r, a, now, c.rules); v.Status != frame.OK || !v.Write {
		return false, fmt.Errorf("the attempt was not charged: status %v", v.Status)
	}
	buffer := c.buffers.Get().(*[storedSize]byte)
	defer c.buffers.Put(buffer) // a store keeps no data
	_, err = c.store.Swap(ctx, id, version, c.seal(buffer[:0], id, version+1, r))
	if errors.Is(err, recordstore.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// seal appends a stored record.
func (c *charger) seal(b []byte, id recordstore.ID, v recordstore.Version, r *record.Record) []byte {
	const plainAt = storedHeader + hsm.NonceSize
	b = append(slices.Grow(b, storedSize), 1, 0, 0, 0, 1)[:plainAt]
	nonce := b[storedHeader:]
	rand.Read(nonce)
	plain := r.Append(b)[plainAt:]
	return c.aead.Seal(b, nonce, plain, c.aad(id, v)) // in place
}

func (c *charger) open(id recordstore.ID, v recordstore.Version, b []byte) (*record.Record, error) {
	if len(b) != storedSize {
		return nil, fmt.Errorf("a stored record of %d bytes at version %d", len(b), v)
	}
	b = b[storedHeader:]
	plain, err := c.aead.Open(b[hsm.NonceSize:hsm.NonceSize], b[:hsm.NonceSize], b[hsm.NonceSize:], c.aad(id, v))
	if err != nil {
		return nil, fmt.Errorf("opening record: %w", err)
	}
	r, err := record.Decode(plain) // which copies
	return &r, err
}

// aad has the length and the parts of the real one.
func (c *charger) aad(id recordstore.ID, v recordstore.Version) []byte {
	const label = "\x00\x1achatvault/1 sealed record\x00\x05bench"
	store := c.store.StoreID()
	b := append(make([]byte, 0, len(label)+len(store)+len(id)+8+4), label...)
	b = append(b, store[:]...)
	b = binary.BigEndian.AppendUint64(append(b, id[:]...), uint64(v))
	return binary.BigEndian.AppendUint32(b, 1)
}

// plainRecord is what the floor stores: as many bytes as a sealed record, of which
// no layer makes anything.
func plainRecord() []byte {
	b := make([]byte, storedSize)
	rand.Read(b)
	return b
}

// touch changes a plain record as a charge would.
func touch(b []byte) error {
	if len(b) != storedSize {
		return fmt.Errorf("a plain record of %d bytes", len(b))
	}
	binary.BigEndian.PutUint64(b, binary.BigEndian.Uint64(b)+1)
	return nil
}

// each calls f for 0 to n−1, from as many goroutines as there are clients.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	var next atomic.Int64
	_, err := concurrently(ctx, func(ctx context.Context) (bool, error) {
		i := int(next.Add(1)) - 1
		if i >= n {
			return false, nil
		}
		return true, f(ctx, i)
	})
	return err
}

// chargeFor calls f for random accounts from all clients, for a while, and says how
// often and how long.
func chargeFor(ctx context.Context, length time.Duration, accounts int, f func(ctx context.Context, account int) error) (n int64, took time.Duration, err error) {
	runtime.GC() // what the one side leaves behind is not the other's burden
	began := time.Now()
	n, err = concurrently(ctx, func(ctx context.Context) (bool, error) {
		if time.Since(began) > length {
			return false, nil
		}
		return true, f(ctx, mathrand.IntN(accounts))
	})
	return n, time.Since(began), err
}

// concurrently has every client call step until it says that nothing is left, and
// counts the calls that did something. The first error ends all.
func concurrently(ctx context.Context, step func(context.Context) (more bool, err error)) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var n atomic.Int64
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				more, err := step(ctx)
				if err != nil {
					cancel(err)
				}
				if err != nil || !more {
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return n.Load(), context.Cause(ctx)
}
