package metrics

import (
	"context"
	"errors"
	"time"

	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/session"
)

// Conversation measures each request of a conversation. The kind and the status
// are the reply's: what a client sends may be anything.
func (m *Metrics) Conversation(c session.Conversation) session.Conversation {
	return conversation{c, m}
}

type conversation struct {
	session.Conversation
	m *Metrics
}

// Handle implements session.Conversation.
func (c conversation) Handle(ctx context.Context, request []byte) (reply []byte, ring bool) {
	began := time.Now()
	reply, ring = c.Conversation.Handle(ctx, request)
	r, err := vaultmsg.ParseReply(reply)
	op, known := opNames[r.Kind]
	if err != nil || !known || !r.Status.Known() {
		return reply, ring // an empty one ends the session
	}
	c.m.opSeconds.WithLabelValues(op).Observe(time.Since(began).Seconds())
	c.m.ops.WithLabelValues(op, r.Status.String()).Inc()
	return reply, ring
}

// The calls and errors of a record store by name.
const (
	storeLoad, storeLoadStale, storeSwap, storeScan, storePosition = "load", "load_stale", "swap", "scan", "position"

	storeConflict, storeUnknown, storeFailed = "conflict", "unknown", "failed"
)

var (
	storeCalls      = []string{storeLoad, storeLoadStale, storeSwap, storeScan, storePosition}
	storeErrorNames = []string{storeConflict, storeUnknown, storeFailed}
)

// Store measures the calls of a record store.
func (m *Metrics) Store(s recordstore.Store) recordstore.Store { return store{s, m} }

type store struct {
	recordstore.Store
	m *Metrics
}

func (s store) note(call string, began time.Time, err error) {
	s.m.storeSeconds.WithLabelValues(call).Observe(time.Since(began).Seconds())
	switch {
	case err == nil:
	case errors.Is(err, recordstore.ErrConflict):
		s.m.storeErrors.WithLabelValues(call, storeConflict).Inc()
	case errors.Is(err, recordstore.ErrUnknown):
		s.m.storeErrors.WithLabelValues(call, storeUnknown).Inc()
	default:
		s.m.storeErrors.WithLabelValues(call, storeFailed).Inc()
	}
}

// Load implements recordstore.Store.
func (s store) Load(ctx context.Context, id recordstore.ID) (data []byte, v recordstore.Version, err error) {
	defer func(began time.Time) { s.note(storeLoad, began, err) }(time.Now())
	return s.Store.Load(ctx, id)
}

// LoadStale implements recordstore.Store.
func (s store) LoadStale(ctx context.Context, id recordstore.ID) (data []byte, v recordstore.Version, err error) {
	defer func(began time.Time) { s.note(storeLoadStale, began, err) }(time.Now())
	return s.Store.LoadStale(ctx, id)
}

// Swap implements recordstore.Store.
func (s store) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (v recordstore.Version, err error) {
	defer func(began time.Time) { s.note(storeSwap, began, err) }(time.Now())
	return s.Store.Swap(ctx, id, expect, data)
}

// Scan implements recordstore.Store.
func (s store) Scan(ctx context.Context, after recordstore.ID, n int) (ids []recordstore.ID, err error) {
	defer func(began time.Time) { s.note(storeScan, began, err) }(time.Now())
	return s.Store.Scan(ctx, after, n)
}

// Position implements recordstore.Store.
func (s store) Position(ctx context.Context) (p uint64, err error) {
	defer func(began time.Time) { s.note(storePosition, began, err) }(time.Now())
	return s.Store.Position(ctx)
}

// The operations of the HSM by name. Public is answered from memory.
const (
	hsmNewOPRFKey, hsmEvaluate, hsmDH, hsmDHX, hsmSeal, hsmOpen, hsmMAC, hsmSign, hsmHealthy = "new_oprf_key", "evaluate", "dh", "dhx", "seal", "open", "mac", "sign", "healthy"
)

var hsmCalls = []string{hsmNewOPRFKey, hsmEvaluate, hsmDH, hsmDHX, hsmSeal, hsmOpen, hsmMAC, hsmSign, hsmHealthy}

// HSM measures the operations of an HSM.
func (m *Metrics) HSM(module hsm.Module) hsm.Module { return measured{module, m} }

type measured struct {
	hsm.Module
	m *Metrics
}

func (h measured) note(call string, began time.Time, err error) {
	h.m.hsmSeconds.WithLabelValues(call).Observe(time.Since(began).Seconds())
	if err != nil {
		h.m.hsmErrors.WithLabelValues(call).Inc()
	}
}

// NewOPRFKey implements hsm.Module.
func (h measured) NewOPRFKey(ctx context.Context) (wrapped, public []byte, err error) {
	defer func(began time.Time) { h.note(hsmNewOPRFKey, began, err) }(time.Now())
	return h.Module.NewOPRFKey(ctx)
}

// Evaluate implements hsm.Module.
func (h measured) Evaluate(ctx context.Context, wrapped, public, point []byte) (out []byte, err error) {
	defer func(began time.Time) { h.note(hsmEvaluate, began, err) }(time.Now())
	return h.Module.Evaluate(ctx, wrapped, public, point)
}

// DH implements hsm.Module.
func (h measured) DH(ctx context.Context, key hsm.Key, peer []byte) (out []byte, err error) {
	defer func(began time.Time) { h.note(hsmDH, began, err) }(time.Now())
	return h.Module.DH(ctx, key, peer)
}

// DHX implements hsm.Module.
func (h measured) DHX(ctx context.Context, key hsm.Key, peer []byte) (out []byte, err error) {
	defer func(began time.Time) { h.note(hsmDHX, began, err) }(time.Now())
	return h.Module.DHX(ctx, key, peer)
}

// Seal implements hsm.Module.
func (h measured) Seal(ctx context.Context, epoch uint32, aad, plaintext []byte) (out []byte, err error) {
	defer func(began time.Time) { h.note(hsmSeal, began, err) }(time.Now())
	return h.Module.Seal(ctx, epoch, aad, plaintext)
}

// Open implements hsm.Module.
func (h measured) Open(ctx context.Context, epoch uint32, aad, sealed []byte) (out []byte, err error) {
	defer func(began time.Time) { h.note(hsmOpen, began, err) }(time.Now())
	return h.Module.Open(ctx, epoch, aad, sealed)
}

// MAC implements hsm.Module.
func (h measured) MAC(ctx context.Context, key hsm.Key, data []byte) (mac [hsm.MACSize]byte, err error) {
	defer func(began time.Time) { h.note(hsmMAC, began, err) }(time.Now())
	return h.Module.MAC(ctx, key, data)
}

// Sign implements hsm.Module.
func (h measured) Sign(ctx context.Context, key hsm.Key, digest [hsm.DigestSize]byte) (sig [hsm.SignatureSize]byte, err error) {
	defer func(began time.Time) { h.note(hsmSign, began, err) }(time.Now())
	return h.Module.Sign(ctx, key, digest)
}

// Healthy implements hsm.Module.
func (h measured) Healthy(ctx context.Context) (err error) {
	defer func(began time.Time) { h.note(hsmHealthy, began, err) }(time.Now())
	return h.Module.Healthy(ctx)
}
