package opaque

import (
	"bytes"
	"errors"
	"testing"

	"chatvault/protocol/oprf"
	"chatvault/protocol/vectors"
)

// codec is one message: its size, where its elements stand, a good example.
type codec struct {
	size     int
	elements []int
	example  []byte
	parse    func([]byte) ([]byte, error) // and encode again
}

func recode[T interface{ Bytes() []byte }](parse func([]byte) (T, error)) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		m, err := parse(b)
		if err != nil {
			return nil, err
		}
		return m.Bytes(), nil
	}
}

func codecs() map[string]codec {
	v := vectors.OPAQUE()[0]
	return map[string]codec{
		"RegistrationRequest":  {33, []int{0}, v.RegistrationRequest, recode(ParseRegistrationRequest)},
		"RegistrationResponse": {66, []int{0, 33}, v.RegistrationResponse, recode(ParseRegistrationResponse)},
		"RegistrationRecord":   {129, []int{0}, v.RegistrationUpload, recode(ParseRegistrationRecord)},
		"KE1":                  {98, []int{0, 65}, v.KE1, recode(ParseKE1)},
		"KE2":                  {259, []int{0, 194}, v.KE2, recode(ParseKE2)},
		"KE3":                  {32, nil, v.KE3, recode(ParseKE3)},
	}
}

func TestMessagesTakeTheirSizeOnly(t *testing.T) {
	for name, c := range codecs() {
		if len(c.example) != c.size {
			t.Errorf("%s: the example has %d bytes, want %d", name, len(c.example), c.size)
		}
		for _, b := range [][]byte{nil, c.example[:c.size-1], append(bytes.Clone(c.example), 0), bytes.Repeat(c.example, 2)} {
			if _, err := c.parse(b); !errors.Is(err, ErrMessage) {
				t.Errorf("%s of %d bytes: %v", name, len(b), err)
			}
		}
		again, err := c.parse(c.example)
		must(t, err)
		same(t, name, again, c.example)
	}
}

func TestMessagesTakeElementsOnly(t *testing.T) {
	for name, c := range codecs() {
		for _, at := range c.elements {
			for _, v := range vectors.Elements() {
				if len(v.Element) != oprf.ElementSize {
					continue // cannot stand in a message of fixed size
				}
				b := bytes.Clone(c.example)
				copy(b[at:], v.Element)
				again, err := c.parse(b)
				if v.Valid {
					must(t, err)
					same(t, name, again, b)
				} else if !errors.Is(err, ErrMessage) || !errors.Is(err, oprf.ErrElement) {
					t.Errorf("%s at %d, %s: %v", name, at, v.Name, err)
				}
			}
		}
	}
}

func TestAFailedParseReturnsNothing(t *testing.T) {
	v := vectors.OPAQUE()[0]
	b := bytes.Clone(v.KE1)
	b[65] = 4
	if m, err := ParseKE1(b); err == nil || m != (KE1{}) {
		t.Errorf("%v, %v", m, err)
	}
}

func fuzz(f *testing.F, name string) {
	c := codecs()[name]
	f.Add(c.example)
	f.Add(c.example[1:])
	f.Add(bytes.Repeat([]byte{0}, c.size))
	f.Add(append(bytes.Clone(c.example), 0))
	if c.parse == nil {
		f.Fatalf("no codec %q", name)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := c.parse(b)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Errorf("error %v", err)
			}
			return
		}
		same(t, name, again, b)
	})
}

func FuzzParseRegistrationRequest(f *testing.F)  { fuzz(f, "RegistrationRequest") }
func FuzzParseRegistrationResponse(f *testing.F) { fuzz(f, "RegistrationResponse") }
func FuzzParseRegistrationRecord(f *testing.F)   { fuzz(f, "RegistrationRecord") }
func FuzzParseKE1(f *testing.F)                  { fuzz(f, "KE1") }
func FuzzParseKE2(f *testing.F)                  { fuzz(f, "KE2") }
func FuzzParseKE3(f *testing.F)                  { fuzz(f, "KE3") }
