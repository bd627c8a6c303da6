package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"chatvault/protocol/secret"
)

type backupKey struct{ secret.Key }

func TestNothingPrintsASecret(t *testing.T) {
	var k backupKey
	copy(k.B[:], strings.Repeat("K", 32))
	b := secret.Bytes(strings.Repeat("B", 32))
	wrapped := struct {
		Key backupKey
		Buf secret.Bytes
	}{k, b}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+" "+verb+"\n", k, &k, b, wrapped)
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "key", k, "buf", b, "both", wrapped)
	}
	if err := json.NewEncoder(&out).Encode(wrapped); err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"KKK", "BBB", "4b4b", "4B4B", "4242", "75 75", "66 66"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q was printed:\n%s", leak, out.String())
		}
	}
}

func TestEqual(t *testing.T) {
	var a, b backupKey
	b.B[31] = 1
	if !a.Equal(a.Key) || a.Equal(b.Key) {
		t.Error("Key.Equal is wrong")
	}
	if !secret.Bytes("x").Equal(secret.Bytes("x")) || secret.Bytes("x").Equal(secret.Bytes("xy")) {
		t.Error("Bytes.Equal is wrong")
	}
}
