package client_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"chatvault/client"
	"chatvault/protocol/backupfile"
)

func TestBackupWithoutANetwork(t *testing.T) {
	key := client.NewBackupKey()
	data := make([]byte, 3<<20)
	rand.Read(data)
	var file bytes.Buffer
	w, err := client.EncryptTo(&file, key, backupfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	typed := string(client.FormatRecoveryKey(key))
	again, checked, err := client.ParseRecoveryKey(typed)
	if err != nil || !checked {
		t.Fatalf("recovery key: %v", err)
	}
	if n, err := client.Verify(bytes.NewReader(file.Bytes()), again, backupfile.ReaderOptions{}); err != nil || n != int64(len(data)) {
		t.Errorf("verify: %d bytes, %v", n, err)
	}
	r, err := client.DecryptFrom(bytes.NewReader(file.Bytes()), again, backupfile.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}

	if _, err := client.Verify(bytes.NewReader(file.Bytes()), client.NewBackupKey(), backupfile.ReaderOptions{}); !errors.Is(err, backupfile.ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	damaged := bytes.Clone(file.Bytes())
	damaged[len(damaged)/2] ^= 1
	_, err = client.Verify(bytes.NewReader(damaged), key, backupfile.ReaderOptions{})
	if c, ok := errors.AsType[*backupfile.CorruptError](err); !ok || c.Offset == 0 {
		t.Errorf("a damaged file: %v", err)
	}
}
