package protocol_test

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"chatvault/protocol/backupfile"
	"chatvault/protocol/password"
	"chatvault/protocol/ticket"
)

// TestEveryMarkedTableIsCompared keeps the promise of SPEC.md's first section: a
// table with a mark is one that a test of this package reads.
func TestEveryMarkedTableIsCompared(t *testing.T) {
	compared := append([]string{
		"statuses", "frames", "uplink frames", "kinds", "events", "relay limits", "record", "labels", "vectors",
		"claims", "password refusals", "backup header",
	}, namedNumbers...)
	for name := range readPage(t).tables {
		table, ok := strings.CutPrefix(name, "table: ")
		if ok && !slices.Contains(compared, table) {
			t.Errorf("no test compares the table %q", table)
		}
	}
}

// TestClaims takes each claim away from a good ticket: required are those without
// which it is refused.
func TestClaims(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	good := ticket.Claims{
		Issuer: "i", Subject: "s", Audience: []string{"f"}, IssuedAt: now, NotBefore: now,
		Expires: now.Add(time.Minute), Device: ticket.Thumbprint{1},
	}
	if err := good.Check(now, []string{"f"}); err != nil {
		t.Fatal(err)
	}
	without := map[string]func(*ticket.Claims){
		"iss":     func(c *ticket.Claims) { c.Issuer = "" },
		"sub":     func(c *ticket.Claims) { c.Subject = "" },
		"aud":     func(c *ticket.Claims) { c.Audience = nil },
		"iat":     func(c *ticket.Claims) { c.IssuedAt = time.Time{} },
		"exp":     func(c *ticket.Claims) { c.Expires = time.Time{} },
		"nbf":     func(c *ticket.Claims) { c.NotBefore = time.Time{} },
		"cnf.jkt": func(c *ticket.Claims) { c.Device = ticket.Thumbprint{} },
	}
	rows := readPage(t).table(t, "table: claims", 3)
	if len(rows) != len(without) {
		t.Errorf("%d rows, %d claims", len(rows), len(without))
	}
	for _, r := range rows {
		take, ok := without[r[0]]
		if !ok {
			t.Errorf("no claim %q", r[0])
			continue
		}
		c := good
		take(&c)
		required := map[bool]string{true: "yes", false: "no"}[c.Check(now, []string{"f"}) != nil]
		if r[1] != required {
			t.Errorf("%s: SPEC.md says required %s, the code %s", r[0], r[1], required)
		}
	}
}

func TestPasswordRefusals(t *testing.T) {
	var want []string
	for _, e := range []*password.Error{
		password.ErrEmpty, password.ErrTooLong, password.ErrEncoding,
		password.ErrControl, password.ErrNoncharacter, password.ErrMarks,
	} {
		want = append(want, string(e.Class))
	}
	var got []string
	for _, r := range readPage(t).table(t, "table: password refusals", 2) {
		got = append(got, r[0])
	}
	if !slices.Equal(got, want) {
		t.Errorf("SPEC.md has %q, the code %q", got, want)
	}
}

// TestBackupHeader looks for known values of a header at the offsets of SPEC.md.
func TestBackupHeader(t *testing.T) {
	h := backupfile.Header{
		PartSize: 0x01020304, Compression: backupfile.None,
		Entries: []backupfile.Entry{{Type: 0x0506, Critical: true, Value: []byte("value")}},
	}
	for i := range h.ID {
		h.ID[i] = byte(0x40 + i)
	}
	for i := range h.KeyCheck {
		h.KeyCheck[i] = byte(0x80 + i)
	}
	b, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	at := func(offset, size int) []byte { return b[offset : offset+size] }
	rows := readPage(t).table(t, "table: backup header", 3)
	if len(rows) != 9 {
		t.Fatalf("%d rows", len(rows))
	}
	magic, _ := hex.DecodeString(strings.ReplaceAll(strings.TrimPrefix(rows[0][2], "magic: "), " ", ""))
	want := [][]byte{
		magic, {0, 1}, binary.BigEndian.AppendUint16(nil, uint16(len(b))), {1, 2, 3, 4}, {1}, h.ID[:], h.KeyCheck[:],
	}
	end := 0
	for i, w := range want {
		offset, size := number(t, rows[i][0]), number(t, rows[i][1])
		if offset != end || size != len(w) {
			t.Errorf("%s: %d bytes at %d, want %d at %d", rows[i][2], size, offset, len(w), end)
			continue
		}
		same(t, rows[i][2], at(offset, size), w)
		end += size
	}
	if rows[7][1] != "var" || number(t, rows[7][0]) != end {
		t.Errorf("entries: %q, want them at %d", rows[7], end)
	}
	same(t, "entry", at(end, 10), append([]byte{5, 6, 1, 0, 5}, "value"...))
	if rows[8][0] != "length − 8" || rows[8][1] != "8" || len(b) != end+10+8 {
		t.Errorf("checksum: %q in a header of %d bytes", rows[8], len(b))
	}
}
