// Package recordstore is the contract between the vault and whatever keeps its
// records: it compares, swaps and is durable. It cannot read a record, counts
// nothing and decides nothing.
//
// # What every store promises
//
//   - A record is 1 to MaxData bytes under an ID, at a Version. Version 0 means
//     that there is none. The first record of an ID has version 1, each swap adds
//     exactly 1, and so no version of an ID ever names two contents. A caller can
//     therefore seal the version into the bytes before it swaps them.
//   - Records are never deleted. What is over is swapped for a tombstone, which to
//     a store is a record like any other.
//   - Swap is linearizable: of several swaps that expect the same version, at most
//     one is done.
//   - Swap is durable when it returns without an error: it survives kill -9 and a
//     power cut of this machine, and in a cluster the loss of any minority.
//   - Load is linearizable too, and shows only what is durable. Else somebody could
//     act on a charge that the next power cut undoes: load a just-charged attempt,
//     find it open, have it evaluated uncharged, and pull the plug.
//   - LoadStale shows what Load shows now, or showed at some time before, or what a
//     swap under way is about to make of it: no bytes that nobody swapped in, never
//     under another version than theirs, and nothing else is promised. It may even
//     go back from one call to the next. In return it waits for no other machine.
//   - Position grows with every swap that is done, so that a store which was put
//     back to an earlier state can be told by whoever noted a later position.
//
// # What an error means
//
//   - ErrConflict: the record has another version than expected. Nothing was
//     stored. Load again and decide again.
//   - ErrUnknown: the swap was stored, or was not, or (in a cluster) may still be.
//     Answer nobody on the strength of either; refuse, and load again before the
//     next step. A swap that lands late is harmless: it competes for its version
//     as any concurrent swap does.
//   - Any other error of a swap, ErrClosed and the context's own among them: it was
//     not stored and will not be.
//   - Any error of Load, LoadStale, Scan or Position: nothing is known. It never
//     means that there is no record.
//
// # What a stale value is good for
//
// For one thing: as what a Swap expects. A swap of version v is done only where the
// record still is at v, and as no version ever names two contents, it is then still
// the one that LoadStale showed: whatever was decided on it, was decided on the
// truth. If the swap is refused with ErrConflict, that decision is void; Load, and
// decide anew.
//
// Nothing may be answered, and nothing evaluated, on a stale value without such a
// swap. That goes for whatever a rule decides that stores nothing:
//
//   - that an attempt goes on uncharged: it may be of a record that was destroyed or
//     replaced since, or have made room for others, and an evaluation would be free;
//   - every refusal: the account that a stale member does not have may be
//     registered, the locked one replaced, and the person would be told that the key is gone;
//   - status, and a receipt that is given once more.
//
// All these are decided on a Load. Two gain. A charge stores something in any case,
// and through a member of a cluster that does not lead it takes two round trips
// less. A sweep, which looks for records to be destroyed, answers nobody: what it
// finds it swaps on, and what it passes over it looks at again the next time.
package recordstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
)

// Limits.
const (
	IDSize = 16
	// MaxData is the largest record, in bytes.
	MaxData = 16 << 10
	// MaxScan is how many ids one Scan returns at most.
	MaxScan = 10_000
)

// ID names a record: a keyed hash of the account, made in the HSM. The zero ID
// names none, it is where a Scan begins.
type ID [IDSize]byte

// String is the id in hexadecimal. It tells nothing about the account to whoever
// lacks the HSM's key.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Version counts the swaps of one record; 0 = no record.
type Version uint64

// StoreID names a store: 16 random bytes made when it is created. It is sealed
// into every record, so that a record copied into another store does not open.
type StoreID [16]byte

// String is the id in hexadecimal.
func (id StoreID) String() string { return hex.EncodeToString(id[:]) }

// The errors on which callers branch; see the package comment.
var (
	ErrConflict = errors.New("record has another version")
	ErrUnknown  = errors.New("swap may have been stored or not")
	ErrClosed   = errors.New("record store is closed")
)

// Store keeps records. All methods are safe for concurrent use.
type Store interface {
	// Load returns the record and its version; nil, 0 and no error when there is
	// none. The bytes are the caller's.
	Load(ctx context.Context, id ID) (data []byte, v Version, err error)

	// LoadStale returns the record as it is or was; nil, 0 and no error when there
	// is or was none. Its result may be used as what a Swap expects, and for
	// nothing else: see the package comment. The bytes are the caller's.
	LoadStale(ctx context.Context, id ID) (data []byte, v Version, err error)

	// Swap stores data as version expect+1 and returns that, if the record's
	// version is expect (0: if there is none); else ErrConflict. Durable on
	// return. data is not kept. It panics on the zero ID and on data outside of
	// 1 to MaxData bytes.
	Swap(ctx context.Context, id ID, expect Version, data []byte) (Version, error)

	// Scan returns up to n ids (MaxScan at most) in ascending order, those after
	// the given one. None left: an empty slice. A record made during a scan of
	// several pages is in it or is not; one that was there before is.
	Scan(ctx context.Context, after ID, n int) ([]ID, error)

	// Position says how far the store has come. Every swap that returned before
	// the call is in it. Its distance between two calls is at least the number
	// of swaps in between.
	Position(ctx context.Context) (uint64, error)

	// StoreID names the store, the same for its whole life.
	StoreID() StoreID

	// Close ends the store; calls under way are awaited. What comes later gets
	// ErrClosed.
	Close() error
}

// CheckSwap panics when the arguments of a Swap are outside of the contract, for
// implementations: such a call is a bug, and half-stored garbage is worse than
// a crash.
func CheckSwap(id ID, data []byte) {
	if id == (ID{}) {
		panic("recordstore: swap of the zero id")
	}
	if len(data) == 0 || len(data) > MaxData {
		panic(fmt.Sprintf("recordstore: swap of %d bytes, outside 1 to %d", len(data), MaxData))
	}
}

// PageSize is n within the limits of Scan.
func PageSize(n int) int { return max(0, min(n, MaxScan)) }
