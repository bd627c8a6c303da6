package vault

import "chatvault/vaultd/internal/record"

// Event is something that operators count. Nothing in it says whose record it
// was.
type Event uint8

// Events. Each has been stored, durably, when it is counted; what was in doubt is
// not counted.
const (
	Charged   Event = iota // an attempt
	Restored               // by a KE3
	Destroyed              // a key, after ten wrong passwords
)

// stateOf is a record's state, 0 without one.
func stateOf(r *record.Record) record.State {
	if r == nil {
		return 0
	}
	return r.State
}

// stored counts what a swap has done to a record that was in state before.
func (v *Vault) stored(err error, before record.State, r *record.Record) {
	if err == nil && before == record.Live && r.State == record.Destroyed {
		v.cfg.Count(Destroyed)
	}
}
