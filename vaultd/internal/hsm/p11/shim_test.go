package p11

import (
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// A shim stands between the package and a real module. before sees every
// call, with its session where it has one, and may answer in its stead.
type shim struct {
	cryptoki
	before atomic.Pointer[func(call string, session pkcs11.SessionHandle) error]

	// serial lets one call at a time into the module. Real logouts need it:
	// SoftHSM 2.6.1 crashes when one comes while C_DeriveKey is under way.
	serial bool
	mu     sync.Mutex

	// generated sees every key that was made, and may hide it; nil does not.
	generated func(pkcs11.SessionHandle, attributes) error

	// result may spoil signatures, values and SENSITIVE as they are read; nil
	// does not.
	result func([]byte)

	// What may be changed on its way; nil changes nothing.
	tokenInfo func(*pkcs11.TokenInfo)
	generate  func(attributes) attributes
	unwrap    func(attributes) attributes
}

// through is a loader that puts the shim before the real module.
func (s *shim) through(path string) (cryptoki, error) {
	var err error
	s.cryptoki, err = load(path)
	return s, err
}

// on sets before; nil lets everything pass.
func (s *shim) on(before func(call string, session pkcs11.SessionHandle) error) {
	if before == nil {
		s.before.Store(nil)
		return
	}
	s.before.Store(&before)
}

func (s *shim) lock() (unlock func()) {
	if !s.serial {
		return func() {}
	}
	s.mu.Lock()
	return s.mu.Unlock
}

func (s *shim) ask(call string, session pkcs11.SessionHandle) error {
	if before := s.before.Load(); before != nil {
		return (*before)(call, session)
	}
	return nil
}

func (s *shim) Initialize(o ...pkcs11.InitializeOption) error {
	defer s.lock()()
	if err := s.ask("Initialize", 0); err != nil {
		return err
	}
	return s.cryptoki.Initialize(o...)
}

func (s *shim) Finalize() error {
	defer s.lock()()
	if err := s.ask("Finalize", 0); err != nil {
		return err
	}
	return s.cryptoki.Finalize()
}

func (s *shim) GetSlotList(present bool) ([]uint, error) {
	defer s.lock()()
	if err := s.ask("GetSlotList", 0); err != nil {
		return nil, err
	}
	return s.cryptoki.GetSlotList(present)
}

func (s *shim) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	defer s.lock()()
	if err := s.ask("GetTokenInfo", 0); err != nil {
		return pkcs11.TokenInfo{}, err
	}
	info, err := s.cryptoki.GetTokenInfo(slot)
	if s.tokenInfo != nil {
		s.tokenInfo(&info)
	}
	return info, err
}

func (s *shim) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	defer s.lock()()
	if err := s.ask("OpenSession", 0); err != nil {
		return 0, err
	}
	return s.cryptoki.OpenSession(slot, flags)
}

func (s *shim) Login(h pkcs11.SessionHandle, user uint, pin string) error {
	defer s.lock()()
	if err := s.ask("Login", h); err != nil {
		return err
	}
	return s.cryptoki.Login(h, user, pin)
}

func (s *shim) FindObjectsInit(h pkcs11.SessionHandle, a []*pkcs11.Attribute) error {
	defer s.lock()()
	if err := s.ask("FindObjectsInit", h); err != nil {
		return err
	}
	return s.cryptoki.FindObjectsInit(h, a)
}

func (s *shim) FindObjects(h pkcs11.SessionHandle, max int) ([]pkcs11.ObjectHandle, bool, error) {
	defer s.lock()()
	if err := s.ask("FindObjects", h); err != nil {
		return nil, false, err
	}
	return s.cryptoki.FindObjects(h, max)
}

func (s *shim) FindObjectsFinal(h pkcs11.SessionHandle) error {
	defer s.lock()()
	if err := s.ask("FindObjectsFinal", h); err != nil {
		return err
	}
	return s.cryptoki.FindObjectsFinal(h)
}

func (s *shim) GetAttributeValue(h pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	defer s.lock()()
	if err := s.ask("GetAttributeValue", h); err != nil {
		return nil, err
	}
	got, err := s.cryptoki.GetAttributeValue(h, o, a)
	if err == nil && s.result != nil && (a[0].Type == pkcs11.CKA_VALUE || a[0].Type == pkcs11.CKA_SENSITIVE) {
		s.result(got[0].Value)
	}
	return got, err
}

func (s *shim) SetAttributeValue(h pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) error {
	defer s.lock()()
	if err := s.ask("SetAttributeValue", h); err != nil {
		return err
	}
	return s.cryptoki.SetAttributeValue(h, o, a)
}

func (s *shim) DestroyObject(h pkcs11.SessionHandle, o pkcs11.ObjectHandle) error {
	defer s.lock()()
	if err := s.ask("DestroyObject", h); err != nil {
		return err
	}
	return s.cryptoki.DestroyObject(h, o)
}

func (s *shim) GenerateKey(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, a []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer s.lock()()
	if err := s.ask("GenerateKey", h); err != nil {
		return 0, err
	}
	if s.generate != nil {
		a = s.generate(a)
	}
	key, err := s.cryptoki.GenerateKey(h, m, a)
	if err == nil && s.generated != nil {
		err = s.generated(h, a)
	}
	return key, err
}

func (s *shim) GenerateKeyPair(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, public, private []*pkcs11.Attribute) (pub, priv pkcs11.ObjectHandle, err error) {
	defer s.lock()()
	if err := s.ask("GenerateKeyPair", h); err != nil {
		return 0, 0, err
	}
	return s.cryptoki.GenerateKeyPair(h, m, public, private)
}

func (s *shim) WrapKey(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, wrapping, key pkcs11.ObjectHandle) ([]byte, error) {
	defer s.lock()()
	if err := s.ask("WrapKey", h); err != nil {
		return nil, err
	}
	return s.cryptoki.WrapKey(h, m, wrapping, key)
}

func (s *shim) UnwrapKey(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, unwrapping pkcs11.ObjectHandle, wrapped []byte, a []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer s.lock()()
	if err := s.ask("UnwrapKey", h); err != nil {
		return 0, err
	}
	if s.unwrap != nil {
		a = s.unwrap(a)
	}
	return s.cryptoki.UnwrapKey(h, m, unwrapping, wrapped, a)
}

func (s *shim) DeriveKey(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, base pkcs11.ObjectHandle, a []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer s.lock()()
	if err := s.ask("DeriveKey", h); err != nil {
		return 0, err
	}
	return s.cryptoki.DeriveKey(h, m, base, a)
}

func (s *shim) EncryptInit(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, k pkcs11.ObjectHandle) error {
	defer s.lock()()
	if err := s.ask("EncryptInit", h); err != nil {
		return err
	}
	return s.cryptoki.EncryptInit(h, m, k)
}

func (s *shim) Encrypt(h pkcs11.SessionHandle, b []byte) ([]byte, error) {
	defer s.lock()()
	if err := s.ask("Encrypt", h); err != nil {
		return nil, err
	}
	return s.cryptoki.Encrypt(h, b)
}

func (s *shim) DecryptInit(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, k pkcs11.ObjectHandle) error {
	defer s.lock()()
	if err := s.ask("DecryptInit", h); err != nil {
		return err
	}
	return s.cryptoki.DecryptInit(h, m, k)
}

func (s *shim) Decrypt(h pkcs11.SessionHandle, b []byte) ([]byte, error) {
	defer s.lock()()
	if err := s.ask("Decrypt", h); err != nil {
		return nil, err
	}
	return s.cryptoki.Decrypt(h, b)
}

func (s *shim) SignInit(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, k pkcs11.ObjectHandle) error {
	defer s.lock()()
	if err := s.ask("SignInit", h); err != nil {
		return err
	}
	return s.cryptoki.SignInit(h, m, k)
}

func (s *shim) Sign(h pkcs11.SessionHandle, b []byte) ([]byte, error) {
	defer s.lock()()
	if err := s.ask("Sign", h); err != nil {
		return nil, err
	}
	out, err := s.cryptoki.Sign(h, b)
	if s.result != nil {
		s.result(out)
	}
	return out, err
}
