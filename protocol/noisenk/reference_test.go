package noisenk

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// refState is Noise's SymmetricState written a second time, straight from the
// Noise paper (revision 34, §5.2), sharing nothing with flynn/noise or with
// this package: it is what noisenk is tested against.
type refState struct {
	h, ck, k []byte
	n        uint64
}

func refHMAC(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// refHKDF is §4.3: three outputs, of which callers take as many as they need.
func refHKDF(ck, ikm []byte) (o1, o2, o3 []byte) {
	t := refHMAC(ck, ikm)
	o1 = refHMAC(t, []byte{1})
	o2 = refHMAC(t, o1, []byte{2})
	return o1, o2, refHMAC(t, o2, []byte{3})
}

func refAEAD(k []byte) cipher.AEAD {
	block, err := aes.NewCipher(k)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func refNonce(n uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 4), n) }

func (s *refState) mixHash(data []byte) {
	sum := sha256.Sum256(append(append([]byte{}, s.h...), data...))
	s.h = sum[:]
}

func (s *refState) mixKey(ikm []byte) {
	s.ck, s.k, _ = refHKDF(s.ck, ikm)
	s.n = 0
}

func (s *refState) mixKeyAndHash(ikm []byte) {
	ck, h, k := refHKDF(s.ck, ikm)
	s.mixHash(h)
	s.ck, s.k, s.n = ck, k, 0
}

func (s *refState) encryptAndHash(plaintext []byte) []byte {
	ct := refAEAD(s.k).Seal(nil, refNonce(s.n), plaintext, s.h)
	s.n++
	s.mixHash(ct)
	return ct
}

func (s *refState) decryptAndHash(ct []byte) ([]byte, error) {
	pt, err := refAEAD(s.k).Open(nil, refNonce(s.n), ct, s.h)
	s.n++
	s.mixHash(ct)
	return pt, err
}

// refSession is what the reference responder ends with.
type refSession struct {
	h, toResponder, toInitiator, psk []byte
}

// seal and open follow the layout that SPEC gives a vault session's messages.
func (s refSession) seal(k, id []byte, direction byte, seq uint32, plaintext []byte) []byte {
	ad := binary.BigEndian.AppendUint32(append(append([]byte{}, id...), direction), seq)
	return refAEAD(k).Seal(nil, refNonce(uint64(seq)-1), plaintext, ad)
}

// refResponder is the responder of NKpsk2 over P-256. tweak, when not nil,
// replaces the psk.
type refResponder struct {
	prologue    []byte
	static, e   *ecdh.PrivateKey
	encapsulate encapsulator
	tweak       func(psk []byte) []byte
}

func (r refResponder) respond(msg1 []byte) ([]byte, refSession, error) {
	// InitializeSymmetric, prologue, pre-message `<- s`.
	name := sha256.Sum256([]byte("Noise_NKpsk2_P256_AESGCM_SHA256"))
	if len("Noise_NKpsk2_P256_AESGCM_SHA256") <= 32 {
		name = [32]byte{}
		copy(name[:], "Noise_NKpsk2_P256_AESGCM_SHA256")
	}
	s := &refState{h: name[:], ck: name[:]}
	s.mixHash(r.prologue)
	s.mixHash(r.static.PublicKey().Bytes())

	// -> e, es; with a psk pattern, e is mixed into the key too (§9.2).
	if len(msg1) < 65 {
		return nil, refSession{}, errors.New("short")
	}
	re, err := ecdh.P256().NewPublicKey(msg1[:65])
	if err != nil {
		return nil, refSession{}, err
	}
	s.mixHash(msg1[:65])
	s.mixKey(msg1[:65])
	es, err := r.static.ECDH(re)
	if err != nil {
		return nil, refSession{}, err
	}
	s.mixKey(es)
	payload, err := s.decryptAndHash(msg1[65:])
	if err != nil {
		return nil, refSession{}, err
	}
	ek, err := mlkem.NewEncapsulationKey768(payload)
	if err != nil {
		return nil, refSession{}, err
	}
	shared, ct := r.encapsulate(ek)
	salt := sha256.Sum256(append(append([]byte{}, payload...), ct...))
	psk, err := hkdf.Key(sha256.New, shared, salt[:], "chatvault/1 noise psk ML-KEM-768", 32)
	if err != nil {
		return nil, refSession{}, err
	}
	if r.tweak != nil {
		psk = r.tweak(psk)
	}

	// <- e, ee, psk
	e := r.e.PublicKey().Bytes()
	s.mixHash(e)
	s.mixKey(e)
	ee, err := r.e.ECDH(re)
	if err != nil {
		return nil, refSession{}, err
	}
	s.mixKey(ee)
	s.mixKeyAndHash(psk)
	msg2 := append(append(append([]byte{}, ct...), e...), s.encryptAndHash(nil)...)
	k1, k2, _ := refHKDF(s.ck, nil)
	return msg2, refSession{h: s.h, toResponder: k1, toInitiator: k2, psk: psk}, nil
}
