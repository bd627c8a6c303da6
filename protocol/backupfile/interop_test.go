package backupfile

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"

	"chatvault/protocol/vectors"
)

// standardRead is a second reader, from the format's description and the
// standard library alone: what a client in another language has to write. It
// takes whole files without compression, and shares no constant with the
// package.
func standardRead(key, file []byte) ([]byte, error) {
	header := file[:binary.BigEndian.Uint16(file[10:])]
	fileKey, err := hkdf.Key(sha256.New, key, header[17:33], "chatvault/1 backup file key", 32)
	if err != nil {
		return nil, err
	}
	headerSum := sha256.Sum256(header)
	var plain, chain []byte = nil, make([]byte, 32)
	for rest := file[len(header):]; ; {
		aad := append(append([]byte("chatvault/1 backup part"), headerSum[:]...), rest[:5]...)
		last := rest[4] == 1
		var chunks [][]byte
		for rest = rest[5:]; ; {
			n := binary.BigEndian.Uint32(rest)
			chunk := rest[4 : 4+n]
			if rest = rest[4+n:]; n == 0 {
				break
			}
			chunks = append(chunks, chunk)
		}
		salt, prefix := chunks[0][1:33], chunks[0][33:]
		partKey, err := hkdf.Key(sha256.New, fileKey, salt, string(aad), 32)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(partKey)
		if err != nil {
			return nil, err
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		var part []byte
		for i, segment := range chunks[1:] {
			nonce := binary.BigEndian.AppendUint32(bytes.Clone(prefix), uint32(i))
			if nonce = append(nonce, 0); i == len(chunks)-2 {
				nonce[11] = 1
			}
			if part, err = gcm.Open(part, nonce, segment, nil); err != nil {
				return nil, err
			}
		}
		if !last {
			plain = append(plain, part...)
			sum := sha256.Sum256(append(chain, chunks[0]...))
			chain = sum[:]
			continue
		}
		if binary.BigEndian.Uint64(part) != uint64(len(plain)) || !bytes.Equal(part[12:], chain) || len(rest) > 0 {
			return nil, errors.New("closing part")
		}
		return plain, nil
	}
}

func TestASecondReaderAgrees(t *testing.T) {
	key := testKey(1)
	for _, n := range []int{0, 1, 100, 3<<20 + 5} {
		plain := random(9, n)
		got, err := standardRead(key.B[:], seal(t, key, plain, Options{Compression: None, PartSize: 2<<20 + 7}))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
	}
	tried := 0
	for _, v := range vectors.BackupFiles() {
		if v.Error == "" && Compression(v.File[16]) == None {
			tried++
			if got, err := standardRead(v.Key, v.File); err != nil || !bytes.Equal(got, v.Plaintext) {
				t.Errorf("%v: %v", v, err)
			}
		}
	}
	if tried < 4 {
		t.Errorf("only %d vectors without compression", tried)
	}
}

// A part without its frames is a plain Tink ciphertext.
func TestPartIsATinkStream(t *testing.T) {
	key, plain := testKey(1), random(4, 2<<20)
	file := seal(t, key, plain, Options{Compression: None})
	p := split(t, file)
	var id [16]byte
	copy(id[:], p[0][17:])
	tink, err := subtle.NewAESGCMHKDF(key.derive(id, labelFileKey), "SHA256", 32, 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	var stream []byte
	for rest := p[1][partFixed:]; len(rest) > chunkFixed; {
		n := binary.BigEndian.Uint32(rest)
		stream = append(stream, rest[chunkFixed:chunkFixed+n]...)
		rest = rest[chunkFixed+n:]
	}
	r, err := tink.NewDecryptingReader(bytes.NewReader(stream), partAAD(sha256.Sum256(p[0]), 0, false))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}
