package backupfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"chatvault/protocol/vectors"
)

// Writing the vectors again makes new ids and salts: only after a change of
// the format.
var update = flag.Bool("update", false, "write ../vectors/backupfile*.json again")

var errorClasses = map[string]error{
	"not_a_backup": ErrNotABackup, "version": ErrVersion, "wrong_key": ErrWrongKey, "header": ErrHeader,
	"truncated": ErrTruncated, "trailing": ErrTrailing, "order": ErrOrder, "framing": ErrFraming,
	"authentication": ErrAuthentication, "content": ErrContent,
}

func TestFileVectors(t *testing.T) {
	if *update {
		save(t, "backupfile.json", fileVectors(t))
	}
	classes := map[string]bool{}
	for _, v := range vectors.BackupFiles() {
		t.Run(v.String(), func(t *testing.T) {
			classes[v.Error] = true
			key := BackupKey{}
			copy(key.B[:], v.Key)
			got, err := open(v.File, key)
			if v.Error != "" {
				var c *CorruptError
				if !errors.Is(err, errorClasses[v.Error]) {
					t.Errorf("%v, want %s", err, v.Error)
				} else if errors.As(err, &c) && c.Offset != v.Offset {
					t.Errorf("at %d, want %d", c.Offset, v.Offset)
				}
				return
			}
			if err != nil || !bytes.Equal(got, v.Plaintext) {
				t.Errorf("got %x, %v", got, err)
			}
			h, raw, err := readHeader(bytes.NewReader(v.File))
			if err != nil {
				t.Fatal(err)
			}
			parts := split(t, v.File)
			aad := partAAD(sha256.Sum256(raw), uint32(len(parts)-2), true)
			if !bytes.Equal(h.ID[:], v.ID) || !bytes.Equal(h.KeyCheck[:], v.KeyCheck) ||
				!bytes.Equal(key.derive(h.ID, labelFileKey), v.FileKey) || !bytes.Equal(aad, v.LastAAD) {
				t.Error("an intermediate value differs")
			}
		})
	}
	for class := range errorClasses {
		if !classes[class] {
			t.Errorf("no vector for %s", class)
		}
	}
}

func TestRecoveryKeyVectors(t *testing.T) {
	if *update {
		save(t, "backupfile_recoverykey.json", keyVectors())
	}
	for _, v := range vectors.RecoveryKeys() {
		t.Run(v.String(), func(t *testing.T) {
			key, checked, err := ParseRecoveryKey(v.Text)
			var length *KeyLengthError
			var char *KeyCharError
			var ok bool
			switch v.Error {
			case "length":
				ok = errors.As(err, &length) && length.Digits == v.Digits
			case "character":
				ok = errors.As(err, &char) && char.Position == v.Position
			case "check_group":
				ok = errors.Is(err, ErrCheckGroup)
			case "":
				group := CheckGroup(key)
				ok = err == nil && checked == v.Checked && bytes.Equal(key.B[:], v.Key) && string(group[:]) == v.CheckGroup &&
					v.Canonical == (v.Text == string(FormatRecoveryKey(key)))
			}
			if !ok {
				t.Errorf("checked %v, %v", checked, err)
			}
		})
	}
}

func save(t *testing.T, name string, cases any) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(cases); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("../vectors/"+name, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Fatalf("%s is written: run the test again without -update", name)
}

func vectorKey(first byte) (k BackupKey) {
	for i := range k.B {
		k.B[i] = first + byte(i)
	}
	return k
}

func fileVectors(t *testing.T) []vectors.BackupFile {
	key := vectorKey(0)
	text := bytes.Repeat([]byte("See you at the lake on Sunday? "), 9)[:250]
	file := func(plain []byte, o Options) []byte { return seal(t, key, plain, o) }
	none, packed := Options{Compression: None, PartSize: 100}, Options{PartSize: 100}
	var out []vectors.BackupFile
	good := func(name string, plain []byte, o Options) {
		b := file(plain, o)
		h, raw, err := readHeader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, vectors.BackupFile{
			Source: vectors.Source{Section: "Backup file", Name: name}, Key: key.B[:], File: b, Plaintext: plain,
			ID: h.ID[:], KeyCheck: h.KeyCheck[:], FileKey: vectors.Hex(key.derive(h.ID, labelFileKey)),
			LastAAD: partAAD(sha256.Sum256(raw), uint32(len(split(t, b))-2), true),
		})
	}
	good("empty", nil, Options{})
	good("empty, no compression", nil, Options{Compression: None})
	good("one byte, no compression", []byte("x"), Options{Compression: None})
	good("one byte, zstd", []byte("x"), Options{})
	good("three parts, no compression", text, none)
	good("three parts, zstd", text, packed)
	good("last part is full", text[:200], none)
	noted := none
	noted.entries = []Entry{{Type: 0xfff0, Value: []byte("unknown")}}
	good("unknown entry that is not critical", text[:10], noted)

	bad := func(name, class string, offset int, with BackupKey, b []byte) {
		out = append(out, vectors.BackupFile{Source: vectors.Source{Section: "Backup file", Name: name},
			Key: with.B[:], File: b, Error: class, Offset: int64(offset)})
	}
	whole := file(text, none)
	p, q := split(t, whole), split(t, file(text, none))
	h, size, segment := len(p[0]), len(p[1]), partFixed+chunkFixed+tinkHeader
	flip := func(at int) []byte { b := bytes.Clone(whole); b[at] ^= 1; return b }
	part := func(i int, change func([]byte)) []byte { // changed in one part
		parts := append([][]byte(nil), p...)
		parts[i] = bytes.Clone(p[i])
		change(parts[i])
		return join(parts...)
	}
	number := func(b []byte, n uint32) []byte { b = bytes.Clone(b); binary.BigEndian.PutUint32(b, n); return b }
	bad("wrong key", "wrong_key", 0, vectorKey(1), whole)
	bad("not a backup", "not_a_backup", 0, key, []byte("PK\x03\x04 something else"))
	bad("version 2", "version", 0, key, flip(8))
	bad("flipped in the backup id", "header", 0, key, flip(20))
	bad("flipped in the key-check value", "header", 0, key, flip(40))
	noted.entries[0].Critical = true
	bad("unknown critical entry", "version", 0, key, file(text[:10], noted))
	noted.entries[0].Critical = false
	entryFlipped := file(text[:10], noted)
	n := int(binary.BigEndian.Uint16(entryFlipped[10:]))
	bad("value of an entry changed, checksum right", "authentication", n+segment, key,
		append(forge(entryFlipped[:n], func(b []byte) { b[headerFixed+entryFixed] ^= 1 }), entryFlipped[n:]...))
	bad("flipped in a salt", "authentication", h+segment, key, flip(h+partFixed+chunkFixed+3))
	bad("flipped in a segment", "authentication", h+size+segment, key, flip(h+size+segment+20))
	bad("flipped in the closing part", "authentication", len(whole)-len(p[4])+segment, key, flip(len(whole)-10))
	bad("flipped in a chunk length", "framing", h+partFixed, key, flip(h+partFixed+3))
	bad("unknown part flag", "framing", h+4, key, part(1, func(b []byte) { b[4] = 2 }))
	bad("last flag set on a data part", "authentication", h+segment, key, part(1, func(b []byte) { b[4] = 1 }))
	bad("last flag cleared", "authentication", len(whole)-len(p[4])+segment, key, part(4, func(b []byte) { b[4] = 0 }))
	bad("cut off in the header", "truncated", 30, key, whole[:30])
	bad("cut off behind a segment", "truncated", h+size-4, key, whole[:h+size-4])
	bad("cut off behind a part", "truncated", h+size, key, whole[:h+size])
	bad("no closing part", "truncated", len(whole)-len(p[4]), key, whole[:len(whole)-len(p[4])])
	bad("something trails", "trailing", len(whole), key, append(bytes.Clone(whole), 0))
	bad("parts swapped", "order", h, key, join(p[0], p[2], p[1], p[3], p[4]))
	bad("parts swapped and renumbered", "authentication", h+segment, key, join(p[0], number(p[2], 0), number(p[1], 1), p[3], p[4]))
	bad("part dropped", "order", h+size, key, join(p[0], p[1], p[3], p[4]))
	bad("part twice", "order", h+size, key, join(p[0], p[1], p[1], p[2], p[3], p[4]))
	bad("part of another backup", "authentication", h+size+segment, key, join(p[0], p[1], q[2], p[3], p[4]))
	bad("part of an earlier attempt", "content", len(whole)-len(p[4]), key, earlierAttempt(t, key, whole, text))
	return out
}

// earlierAttempt writes the file again from its first part on, and puts its
// old second part back in.
func earlierAttempt(t *testing.T, key BackupKey, whole, plain []byte) []byte {
	var first Checkpoint
	r, err := NewReader(bytes.NewReader(whole), key, ReaderOptions{OnPart: func(cp Checkpoint) error {
		if cp.Parts == 1 {
			first = cp
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	again := bytes.NewBuffer(bytes.Clone(whole[:first.FileOffset]))
	w, err := ResumeWriter(again, key, r.Header(), first, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.Write(plain[first.PlainBytes:])
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a, b := split(t, whole), split(t, again.Bytes())
	return join(b[0], b[1], a[2], b[3], b[4])
}

func keyVectors() []vectors.RecoveryKey {
	var out []vectors.RecoveryKey
	add := func(name string, v vectors.RecoveryKey) {
		v.Source = vectors.Source{Section: "Recovery key", Name: name}
		out = append(out, v)
	}
	var zero BackupKey
	key := vectorKey(0)
	key.B[0] = 0x10
	good := func(name, text string, key BackupKey, checked bool) {
		group := CheckGroup(key)
		add(name, vectors.RecoveryKey{Text: text, Key: bytes.Clone(key.B[:]), CheckGroup: string(group[:]), Checked: checked,
			Canonical: text == string(FormatRecoveryKey(key))})
	}
	text := string(FormatRecoveryKey(key))
	good("zero", string(FormatRecoveryKey(zero)), zero, true)
	good("as written", text, key, true)
	good("another key", string(FormatRecoveryKey(vectorKey(0xe0))), vectorKey(0xe0), true)
	good("without check group", text[:79], key, false)
	good("upper case, no spaces", strings.ToUpper(strings.ReplaceAll(text, " ", "")), key, true)
	good("dashes and lines", strings.ReplaceAll(strings.ReplaceAll(text[:80], "8 ", "8\r\n"), " ", "-")+text[82:], key, true)
	good("O for 0, I and l for 1", "lO"+strings.Replace(text[2:], "10", "Io", 1), key, true)
	add("one digit missing", vectors.RecoveryKey{Text: text[:78], Error: "length", Digits: 63})
	add("nothing", vectors.RecoveryKey{Text: " \n", Error: "length"})
	add("half a check group", vectors.RecoveryKey{Text: text[:84], Error: "length", Digits: 66})
	add("one digit too many", vectors.RecoveryKey{Text: text + "0", Error: "length", Digits: 69})
	add("letter g", vectors.RecoveryKey{Text: text[:10] + "g" + text[11:], Error: "character", Position: 11})
	add("hexadecimal digit in the check group", vectors.RecoveryKey{Text: text[:85] + "a", Error: "character", Position: 86})
	add("digit mistyped", vectors.RecoveryKey{Text: "2" + text[1:], Error: "check_group"})
	add("groups swapped", vectors.RecoveryKey{Text: text[5:10] + text[:5] + text[10:], Error: "check_group"})
	return out
}
