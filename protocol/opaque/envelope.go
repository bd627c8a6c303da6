package opaque

import (
	"crypto/subtle"

	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
)

// randomizedPassword is randomized_password of RFC 9807 sections 5.2.3 and
// 6.3.2.3: the secret that OPRF and KSF make of the password.
type randomizedPassword struct{ secret.Key }

func newRandomizedPassword(oprfOutput []byte, stretch KSF) (randomizedPassword, error) {
	stretched, err := stretch(oprfOutput)
	if err != nil {
		return randomizedPassword{}, err
	}
	ikm := concat(len(oprfOutput)+len(stretched), oprfOutput, stretched)
	clear(stretched)
	defer clear(ikm)
	return randomizedPassword{extract(ikm)}, nil
}

func (rwd randomizedPassword) maskingKey() secret.Key { return expandKey(rwd.Key, "MaskingKey") }

// envelopeKeys is what Store and Recover derive alike from the randomized
// password and the envelope's nonce.
type envelopeKeys struct {
	authKey          secret.Key
	exportKey        ExportKey
	clientPrivateKey oprf.PrivateKey
	clientPublicKey  [Npk]byte
}

func (rwd randomizedPassword) envelopeKeys(nonce [Nn]byte) (k envelopeKeys, err error) {
	k.authKey = expandKey(rwd.Key, string(nonce[:])+"AuthKey")
	k.exportKey = ExportKey{expandKey(rwd.Key, string(nonce[:])+"ExportKey")}
	seed := expandKey(rwd.Key, string(nonce[:])+"PrivateKey")
	defer seed.Wipe()
	k.clientPrivateKey, k.clientPublicKey, err = deriveDiffieHellmanKeyPair(seed.B)
	return k, err
}

// authTag is the MAC over nonce and CleartextCredentials, RFC 9807 sections
// 4 and 4.1.2.
func (k envelopeKeys) authTag(nonce [Nn]byte, serverPublicKey [Npk]byte, id identities) [Nh]byte {
	msg := concat(Nn+Npk+2+len(id.server)+2+len(id.client), nonce[:], serverPublicKey[:])
	msg = appendVector(msg, id.server)
	msg = appendVector(msg, id.client)
	return mac(k.authKey, msg)
}

// store is Store of RFC 9807 section 4.1.2.
func store(rwd randomizedPassword, serverPublicKey [Npk]byte, p ClientParams, nonce [Nn]byte) (RegistrationRecord, ExportKey, error) {
	k, err := rwd.envelopeKeys(nonce)
	if err != nil {
		return RegistrationRecord{}, ExportKey{}, err
	}
	id, err := newIdentities(p.ClientIdentity, k.clientPublicKey[:], p.ServerIdentity, serverPublicKey[:])
	if err != nil {
		return RegistrationRecord{}, ExportKey{}, err
	}
	return RegistrationRecord{
		ClientPublicKey: k.clientPublicKey,
		MaskingKey:      rwd.maskingKey(),
		Envelope:        Envelope{Nonce: nonce, AuthTag: k.authTag(nonce, serverPublicKey, id)},
	}, k.exportKey, nil
}

// recoverEnvelope is Recover of RFC 9807 section 4.1.3, but that it says
// whether the tag is right (1 or 0) instead of stopping.
func recoverEnvelope(rwd randomizedPassword, serverPublicKey [Npk]byte, e Envelope, p ClientParams) (k envelopeKeys, id identities, ok int, err error) {
	k, err = rwd.envelopeKeys(e.Nonce)
	if err != nil {
		return k, id, 0, err
	}
	id, err = newIdentities(p.ClientIdentity, k.clientPublicKey[:], p.ServerIdentity, serverPublicKey[:])
	if err != nil {
		return k, id, 0, err
	}
	expected := k.authTag(e.Nonce, serverPublicKey, id)
	return k, id, subtle.ConstantTimeCompare(expected[:], e.AuthTag[:]), nil
}

// mask is the XOR of RFC 9807 sections 6.3.2.2 and 6.3.2.3 with
// credential_response_pad; it undoes itself.
func mask(maskingKey secret.Key, maskingNonce [Nn]byte, response [maskedResponseSize]byte) [maskedResponseSize]byte {
	pad := expand(maskingKey.B[:], string(maskingNonce[:])+"CredentialResponsePad", maskedResponseSize)
	subtle.XORBytes(response[:], response[:], pad)
	return response
}
