package opaque

import (
	"crypto/sha256"
	"crypto/subtle"
	"math"

	"chatvault/protocol/secret"
)

// preamble is Preamble of RFC 9807 section 6.4.2.1.
func preamble(context []byte, id identities, ke1 KE1, ke2 KE2) ([]byte, error) {
	if len(context) > math.MaxUint16 {
		return nil, ErrIdentity
	}
	b := appendVector([]byte("OPAQUEv1-"), context)
	b = appendVector(b, id.client)
	b = append(b, ke1.Bytes()...)
	b = appendVector(b, id.server)
	b = append(b, ke2.CredentialResponse.bytes()...)
	b = append(b, ke2.ServerNonce[:]...)
	return append(b, ke2.ServerPublicKeyshare[:]...), nil
}

// akeKeys is what DeriveKeys of RFC 9807 section 6.4.2.2 returns.
type akeKeys struct {
	handshakeSecret secret.Key
	km2, km3        secret.Key // server's and client's MAC key
	sessionKey      SessionKey
}

// deriveKeys is DeriveKeys of RFC 9807 section 6.4.2.2 over dh1, dh2, dh3. It
// wipes them.
func deriveKeys(preambleHash [Nh]byte, dh1, dh2, dh3 []byte) (k akeKeys) {
	ikm := concat(3*Npk, dh1, dh2, dh3)
	prk := extract(ikm)
	for _, b := range [][]byte{dh1, dh2, dh3, ikm} {
		clear(b)
	}
	defer prk.Wipe()
	k.handshakeSecret = deriveSecret(prk, "HandshakeSecret", preambleHash[:])
	k.sessionKey = SessionKey{deriveSecret(prk, "SessionKey", preambleHash[:])}
	k.km2 = deriveSecret(k.handshakeSecret, "ServerMAC", nil)
	k.km3 = deriveSecret(k.handshakeSecret, "ClientMAC", nil)
	return k
}

// deriveSecret is Derive-Secret of RFC 9807 section 6.4.2.1: Expand-Label with
// a CustomLabel of length, label and transcript hash.
func deriveSecret(s secret.Key, label string, transcriptHash []byte) secret.Key {
	label = "OPAQUE-" + label
	customLabel := append([]byte{0, Nh, byte(len(label))}, label...)
	customLabel = append(customLabel, byte(len(transcriptHash)))
	return expandKey(s, string(append(customLabel, transcriptHash...)))
}

// confirm returns server_mac and expected client_mac (RFC 9807 sections 6.4.3
// and 6.4.4). The client's MAC covers the server's.
func (k akeKeys) confirm(preamble []byte) (serverMAC, clientMAC [Nh]byte) {
	preambleHash := sha256.Sum256(preamble)
	serverMAC = mac(k.km2, preambleHash[:])
	transcriptHash := sha256.Sum256(concat(len(preamble)+Nh, preamble, serverMAC[:]))
	return serverMAC, mac(k.km3, transcriptHash[:])
}

func equal(a, b []byte) int { return subtle.ConstantTimeCompare(a, b) }
