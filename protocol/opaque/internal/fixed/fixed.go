// Package fixed holds the type that replaces a server's randomness in tests of
// vectors. It is internal so that only opaquetest can hand one out.
package fixed

// KE2 is the randomness of one KE2.
type KE2 struct {
	MaskingNonce       [32]byte
	ServerNonce        [32]byte
	ServerKeyshareSeed [32]byte
}
