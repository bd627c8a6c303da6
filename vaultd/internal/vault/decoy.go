package vault

import (
	"context"

	"chatvault/protocol/opaque"
	"chatvault/protocol/ticket"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/record"
)

// decoy is what a refused attempt is evaluated with. The relay sees when a reply
// comes; without the same work and the same write it would see who is locked and
// who never registered (A11).
type decoy struct {
	wrapped, public []byte
	record          opaque.RegistrationRecord
}

func newDecoy(ctx context.Context, m hsm.Module) (d decoy, err error) {
	if d.wrapped, d.public, err = m.NewOPRFKey(ctx); err != nil {
		return d, err
	}
	// Any element will do for a client public key: nobody has its private key.
	_, public, err := m.NewOPRFKey(ctx)
	copy(d.record.ClientPublicKey[:], public)
	return d, err
}

// pretend does the work of an attempt that is not one, and drops the result. Its
// failures change nothing: the refusal stands.
func (v *Vault) pretend(ctx context.Context, a ticket.Account, ke1 opaque.KE1) {
	_ = v.decoyWrite(ctx, a)
	_, state, err := opaque.GenerateKE2(ctx, opaque.ServerParams{
		ServerIdentity: []byte(v.cfg.Fleet), ServerPublicKey: v.serverPublic,
		Evaluate: v.evaluate(v.decoy.wrapped, v.decoy.public), DH: v.staticDH,
	}, v.decoy.record, a.Bytes(), ke1)
	if err == nil {
		state.Wipe()
	}
}

// decoyWrite stores a record of nobody, durably: there are 256 of them, so that
// strangers cannot fill the store.
func (v *Vault) decoyWrite(ctx context.Context, a ticket.Account) error {
	hash := a.Hash()
	id, err := v.records.id(ctx, "chatvault/1 decoy", hash[:1])
	if err != nil {
		return err
	}
	_, version, err := v.records.load(ctx, id)
	if err != nil {
		return err
	}
	r := record.Record{State: record.Decoy, RegisteredAt: uint64(v.cfg.Now().Unix())}
	return v.records.swap(ctx, id, version, &r)
}
