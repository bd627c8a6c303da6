package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"

	"chatvault/protocol/secret"
)

// keyPrefix stands before a key in its file, as Standard Webhooks has it.
const keyPrefix = "whsec_"

// Bounds of a key, in bytes; Standard Webhooks' own.
const (
	minKey = 24
	maxKey = 64
)

// maxKeys: the one in use, and the one before or after it.
const maxKeys = 2

// ErrKey: a file is not one of keys.
var ErrKey = errors.New("want one or two lines whsec_… with 24 to 64 bytes in base64")

// ParseKeys reads the keys that sign: one, or two while they are exchanged.
// No error repeats what stands there.
func ParseKeys(file secret.Bytes) ([]secret.Bytes, error) {
	var keys []secret.Bytes
	for line := range strings.Lines(string(file)) {
		text, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), keyPrefix)
		key, err := base64.StdEncoding.Strict().DecodeString(text)
		if !ok || err != nil || len(key) < minKey || len(key) > maxKey {
			return nil, ErrKey
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, ErrKey
	}
	return keys, nil
}

// sign makes the header webhook-signature: for each key "v1," and the base64 of
// HMAC-SHA-256 over id.timestamp.body.
func sign(keys []secret.Bytes, id, timestamp string, body []byte) string {
	var all []string
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(body)
		all = append(all, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(all, " ")
}
