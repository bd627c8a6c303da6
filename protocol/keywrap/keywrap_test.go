package keywrap_test

import (
	"errors"
	"testing"

	"chatvault/protocol/keywrap"
	"chatvault/protocol/secret"
)

func TestWrapOpensOnlyWhereItBelongs(t *testing.T) {
	export, key := secret.Key{B: [32]byte{1}}, secret.Key{B: [32]byte{2}}
	b := keywrap.Binding{Fleet: "demo", Account: []byte("account"), Generation: 3}
	wrapped := keywrap.Wrap(export, key, b)
	if got, err := keywrap.Unwrap(export, wrapped, b); err != nil || !got.Equal(key) {
		t.Fatal("does not open", err)
	}
	for name, bad := range map[string]keywrap.Binding{
		"fleet":      {Fleet: "demp", Account: b.Account, Generation: 3},
		"account":    {Fleet: "demo", Account: []byte("accoune"), Generation: 3},
		"border":     {Fleet: "demoa", Account: []byte("ccount"), Generation: 3},
		"generation": {Fleet: "demo", Account: b.Account, Generation: 4},
	} {
		if _, err := keywrap.Unwrap(export, wrapped, bad); !errors.Is(err, keywrap.ErrUnwrap) {
			t.Errorf("opens under another %s", name)
		}
	}
	if _, err := keywrap.Unwrap(secret.Key{}, wrapped, b); !errors.Is(err, keywrap.ErrUnwrap) {
		t.Error("opens under another export key")
	}
	for i := range wrapped {
		bad := wrapped
		bad[i] ^= 0x80
		if _, err := keywrap.Unwrap(export, bad, b); !errors.Is(err, keywrap.ErrUnwrap) {
			t.Errorf("opens with byte %d flipped", i)
		}
	}
}
