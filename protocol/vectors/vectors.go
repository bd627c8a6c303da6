// Package vectors embeds the test vectors of the protocol in one JSON form, so
// that clients in other languages can run the files and Go tests the loaders.
//
// One file holds one kind of case; one entry is one case. Every entry names
// its origin (rfc, section) and itself (name); every value is lower-case
// hexadecimal without a prefix, and a value that does not apply is absent.
//
// To add a kind: one JSON file, one struct that embeds Source, one loader of
// one line, and a line in the table of vectors_test.go.
package vectors

import (
	"bytes"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
)

//go:embed *.json
var files embed.FS

// Files are the JSON files themselves.
func Files() embed.FS { return files }

// Source says where a case comes from.
type Source struct {
	RFC     int    `json:"rfc,omitempty"` // 0: the project's own SPEC.md
	Section string `json:"section"`
	Name    string `json:"name"`
}

// String is fit to name a subtest.
func (s Source) String() string {
	if s.RFC == 0 {
		return fmt.Sprintf("SPEC %s %s", s.Section, s.Name)
	}
	return fmt.Sprintf("RFC %d %s %s", s.RFC, s.Section, s.Name)
}

// Hex is a byte string that stands as lower-case hexadecimal in JSON.
type Hex []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) error {
	*h = make([]byte, hex.DecodedLen(len(text)))
	_, err := hex.Decode(*h, text)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// load reads one embedded file. The files are part of the program: one that
// does not parse, or is empty and so would let a test pass unseen, panics.
func load[T any](name string) []T {
	data, err := files.ReadFile(name)
	if err != nil {
		panic("vectors: " + err.Error())
	}
	cases, err := parse[T](data)
	if err != nil {
		panic(fmt.Sprintf("vectors: %s: %v", name, err))
	}
	return cases
}

func parse[T any](data []byte) ([]T, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var cases []T
	if err := dec.Decode(&cases); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("something follows the list")
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("no cases")
	}
	return cases, nil
}
