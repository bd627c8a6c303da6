package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"chatvault/protocol/ticket"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
)

// records seals records and stores them. A stored record is
//
//	format u8 ‖ epoch u32 ‖ sealed (nonce 12 ‖ ciphertext ‖ tag 16)
//
// and the additional data binds it to where it stands: fleet, store, record id,
// version and epoch. A record moved, or put back at another version, does not
// open (A8, A12).
type records struct {
	fleet string
	epoch uint32
	store recordstore.Store
	hsm   hsm.Module
}

const (
	storedFormat = 1
	storedHeader = 1 + 4
	// storedSize is the length of every stored record, in bytes.
	storedSize = storedHeader + record.Size + hsm.SealOverhead
)

// errCorrupt says that a stored record is not what this vault's fleet sealed for
// this place.
var errCorrupt = errors.New("stored record does not open")

// accountID names an account's record: a store without the HSM cannot tell
// whose it is.
func (s *records) accountID(ctx context.Context, a ticket.Account) (recordstore.ID, error) {
	return s.id(ctx, "chatvault/1 record", a.Bytes())
}

func (s *records) id(ctx context.Context, label string, data []byte) (recordstore.ID, error) {
	mac, err := s.hsm.MAC(ctx, hsm.Lookup, append(appendLP(nil, label), data...))
	if err != nil {
		return recordstore.ID{}, fmt.Errorf("record id: %w", err)
	}
	return recordstore.ID(mac[:len(recordstore.ID{})]), nil
}

// load returns nil and version 0 when there is no record.
func (s *records) load(ctx context.Context, id recordstore.ID) (*record.Record, recordstore.Version, error) {
	b, version, err := s.store.Load(ctx, id)
	if err != nil {
		return nil, 0, fmt.Errorf("load: %w", err)
	}
	return s.open(ctx, id, version, b)
}

// loadStale is load of what may be over already: good for nothing but a swap.
func (s *records) loadStale(ctx context.Context, id recordstore.ID) (*record.Record, recordstore.Version, error) {
	b, version, err := s.store.LoadStale(ctx, id)
	if err != nil {
		return nil, 0, fmt.Errorf("load stale: %w", err)
	}
	return s.open(ctx, id, version, b)
}

// still says whether a record is at the version that was read of it, however stale
// that was: then it is what was read, for no version names two contents.
func (s *records) still(ctx context.Context, id recordstore.ID, version recordstore.Version) (bool, error) {
	_, is, err := s.store.Load(ctx, id)
	if err != nil {
		return false, fmt.Errorf("load: %w", err)
	}
	return is == version, nil
}

func (s *records) open(ctx context.Context, id recordstore.ID, version recordstore.Version, b []byte) (*record.Record, recordstore.Version, error) {
	if version == 0 {
		return nil, 0, nil
	}
	if len(b) != storedSize || b[0] != storedFormat {
		return nil, 0, fmt.Errorf("%w: %d bytes of format %d", errCorrupt, len(b), b[0])
	}
	epoch := binary.BigEndian.Uint32(b[1:])
	plain, err := s.hsm.Open(ctx, epoch, s.aad(id, version, epoch), b[storedHeader:])
	if errors.Is(err, hsm.ErrIntegrity) {
		return nil, 0, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open record: %w", err)
	}
	r, err := record.Decode(plain)
	if err != nil {
		return nil, 0, err
	}
	return &r, version, nil
}

// swap seals the record for the version after expect and stores it there.
func (s *records) swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, r *record.Record) error {
	sealed, err := s.hsm.Seal(ctx, s.epoch, s.aad(id, expect+1, s.epoch), r.Encode())
	if err != nil {
		return fmt.Errorf("seal record: %w", err)
	}
	b := binary.BigEndian.AppendUint32([]byte{storedFormat}, s.epoch)
	if _, err := s.store.Swap(ctx, id, expect, append(b, sealed...)); err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	return nil
}

// aad is lp(label) ‖ lp(fleet) ‖ store id 16 ‖ record id 16 ‖ u64 version ‖ u32
// epoch.
func (s *records) aad(id recordstore.ID, version recordstore.Version, epoch uint32) []byte {
	store := s.store.StoreID()
	b := appendLP(appendLP(nil, "chatvault/1 sealed record"), s.fleet)
	b = append(append(b, store[:]...), id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(version))
	return binary.BigEndian.AppendUint32(b, epoch)
}

func appendLP(b []byte, x string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(x))), x...)
}
