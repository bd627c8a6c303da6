package hsm

import "fmt"

// Key names a long-lived key of the fleet. Every vault of a fleet holds the
// same keys under the same names.
type Key string

// The keys beside those that seal.
const (
	Wrap    Key = "wrap"    // AES-256; wraps the OPRF keys of records
	Lookup  Key = "lookup"  // generic secret; HMAC that names records
	Opaque  Key = "opaque"  // P-256; the server's static key of 3DH
	Noise   Key = "noise"   // P-256; the responder's static key
	Receipt Key = "receipt" // P-256; signs receipts
	Audit   Key = "audit"   // P-256; signs checkpoints of the audit log
)

// Epochs is how many sealing keys a fleet has, numbered from 1. All are made
// at once: one born later in one HSM could not be cloned at that moment into
// the others.
const Epochs = 32

// Use is the one thing that a key may do.
type Use int

// The uses. A key asked for any other use than its own is ErrNoKey.
const (
	UseNone Use = iota
	UseWrap     // Evaluator
	UseSeal     // Sealer
	UseMAC      // Signer.MAC
	UseDH       // Agreer.DH
	UseDHX      // Agreer.DHX
	UseSign     // Signer.Sign
)

// SealKey names the key that seals records of an epoch, 1 to Epochs. Outside
// that range it names a key that no module holds.
func SealKey(epoch uint32) Key { return Key(fmt.Sprintf("seal-%02d", epoch)) }

// Keys lists every key of the hierarchy.
func Keys() []Key {
	keys := []Key{Wrap}
	for epoch := uint32(1); epoch <= Epochs; epoch++ {
		keys = append(keys, SealKey(epoch))
	}
	return append(keys, Lookup, Opaque, Noise, Receipt, Audit)
}

// Use says what the key is for; UseNone if the hierarchy has no such key.
func (k Key) Use() Use {
	if use, ok := uses[k]; ok {
		return use
	}
	return UseNone
}

// Asymmetric says whether the key is a P-256 pair, with a public half.
func (u Use) Asymmetric() bool { return u == UseDH || u == UseDHX || u == UseSign }

var uses = func() map[Key]Use {
	m := map[Key]Use{
		Wrap: UseWrap, Lookup: UseMAC, Opaque: UseDH, Noise: UseDHX,
		Receipt: UseSign, Audit: UseSign,
	}
	for epoch := uint32(1); epoch <= Epochs; epoch++ {
		m[SealKey(epoch)] = UseSeal
	}
	return m
}()

// Check is nil if key has the given use, else ErrNoKey.
func Check(key Key, use Use) error {
	if use == UseNone || key.Use() != use {
		return fmt.Errorf("%w: %q for this operation", ErrNoKey, string(key))
	}
	return nil
}
