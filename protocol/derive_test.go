package protocol_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/binary"
	"math/big"
	"testing"

	"chatvault/protocol/keywrap"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
	"chatvault/protocol/vectors"
)

// The derivations of SPEC.md against the values of a second implementation.

func generation(h vectors.Hex) uint64 { return binary.BigEndian.Uint64(h) }

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %x, want %x", what, got, want)
	}
}

func TestAccountVectors(t *testing.T) {
	for _, c := range vectors.Accounts() {
		t.Run(c.String(), func(t *testing.T) {
			a := ticket.Account{Issuer: c.Issuer, Subject: c.Subject}
			hash := a.Hash()
			same(t, "account", a.Bytes(), c.Account)
			same(t, "account hash", hash[:], c.AccountHash)
			same(t, "client identity", vaultmsg.ClientIdentity(c.Issuer, c.Subject, generation(c.Generation)), c.ClientIdentity)
			same(t, "OPRF input", vaultmsg.OPRFInput(c.Password, c.Fleet, c.Issuer, c.Subject), c.OPRFInput)
		})
	}
}

func TestContextVectors(t *testing.T) {
	for _, c := range vectors.Contexts() {
		ksf := opaque.Argon2id{MemoryKiB: c.MemoryKiB, Time: c.Time, Parallelism: c.Parallelism}
		if err := ksf.Check(); err != nil {
			t.Errorf("%s: %v", c, err)
		}
		same(t, c.String(), vaultmsg.Context(ksf, [32]byte(c.HandshakeHash)), c.Context)
	}
}

func TestProofVectors(t *testing.T) {
	for _, c := range vectors.Proofs() {
		t.Run(c.String(), func(t *testing.T) {
			private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), c.DevicePrivate)
			if err != nil {
				t.Fatal(err)
			}
			public, err := private.PublicKey.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			same(t, "public key", public, c.DevicePublic)
			thumbprint, err := ticket.ThumbprintOf(c.DevicePublic)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "thumbprint", thumbprint[:], c.Thumbprint)
			if thumbprint.String() != c.JKT {
				t.Errorf("jkt: got %s, want %s", thumbprint, c.JKT)
			}
			hash := ticket.Hash(c.Ticket)
			same(t, "ticket hash", hash[:], c.TicketHash)
			if err := ticket.VerifyRelayAuth(c.DevicePublic, c.RelayAuth, [32]byte(c.Nonce), c.Host, hash); err != nil {
				t.Error("relay-auth:", err)
			}
			if err := ticket.VerifyVaultAuth(c.DevicePublic, c.VaultAuth, c.Fleet, [32]byte(c.HandshakeHash), hash); err != nil {
				t.Error("vault-auth:", err)
			}
			// The digests of the vector are those that were signed, so that they
			// are the ones that the two verifiers have computed.
			verifyES256(t, "relay-auth", &private.PublicKey, c.RelayAuthDigest, c.RelayAuth)
			verifyES256(t, "vault-auth", &private.PublicKey, c.VaultAuthDigest, c.VaultAuth)
		})
	}
}

func verifyES256(t *testing.T, what string, key *ecdsa.PublicKey, digest, signature []byte) {
	t.Helper()
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(key, digest, r, s) {
		t.Errorf("%s: the signature is not over the digest", what)
	}
}

func TestAttemptVectors(t *testing.T) {
	for _, c := range vectors.Attempts() {
		t.Run(c.String(), func(t *testing.T) {
			if err := oprf.CheckElement(c.BlindedElement); err != nil {
				t.Fatal(err)
			}
			id := vaultmsg.AttemptID(generation(c.Generation), [32]byte(c.Thumbprint), [33]byte(c.BlindedElement))
			same(t, "attempt id", id[:], c.AttemptID)
			key := secret.Key{B: [32]byte(c.SessionKey)}
			release := vaultmsg.SealRelease(key, id, [vaultmsg.WrapSize]byte(c.Wrap))
			same(t, "release", release[:], c.Release)
			wrap, err := vaultmsg.OpenRelease(key, id, [vaultmsg.ReleaseSize]byte(c.Release))
			if err != nil {
				t.Fatal(err)
			}
			same(t, "wrap", wrap[:], c.Wrap)
		})
	}
}

func TestKeywrapVectors(t *testing.T) {
	for _, c := range vectors.Keywraps() {
		t.Run(c.String(), func(t *testing.T) {
			b := keywrap.Binding{Fleet: c.Fleet, Account: c.Account, Generation: generation(c.Generation)}
			export, backup := secret.Key{B: [32]byte(c.ExportKey)}, secret.Key{B: [32]byte(c.BackupKey)}
			wrapped := keywrap.Wrap(export, backup, b)
			same(t, "wrapped key", wrapped[:], c.WrappedKey)
			got, err := keywrap.Unwrap(export, [keywrap.Size]byte(c.WrappedKey), b)
			if err != nil || !got.Equal(backup) {
				t.Errorf("unwrap: %v", err)
			}
		})
	}
}

func TestReceiptVectors(t *testing.T) {
	for _, c := range vectors.Receipts() {
		t.Run(c.String(), func(t *testing.T) {
			ksf := opaque.Argon2id{MemoryKiB: c.MemoryKiB, Time: c.Time, Parallelism: c.Parallelism}
			hash := vaultmsg.BodyHash([opaque.RegistrationRecordSize]byte(c.Record), [vaultmsg.WrapSize]byte(c.Wrap), ksf)
			same(t, "body hash", hash[:], c.BodyHash)
			r, err := vaultmsg.ParseReceipt(c.Receipt)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "body hash of the receipt", r.BodyHash[:], c.BodyHash)
			digest := r.Digest(c.Fleet, [32]byte(c.AccountHash))
			same(t, "digest", digest[:], c.Digest)
			if err := r.Verify(c.ReceiptKey, c.Fleet, [32]byte(c.AccountHash)); err != nil {
				t.Error(err)
			}
		})
	}
}
