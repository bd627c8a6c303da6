// Package protocol_test keeps SPEC.md and the test vectors of the project's own
// derivations true to the code.
package protocol_test

import (
	"fmt"
	"go/constant"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/protocol/vectors"
)

// page is SPEC.md, its tables found by the mark in front of them.
type page struct {
	text   string
	tables map[string][][]string
}

var mark = regexp.MustCompile(`^<!-- (table|message): (.+) -->$`)

// readPage reads SPEC.md. A mark without a table behind it fails, and so does
// a mark that stands twice.
func readPage(t *testing.T) page {
	t.Helper()
	b, err := os.ReadFile("SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	p := page{text: string(b), tables: map[string][][]string{}}
	lines := strings.Split(p.text, "\n")
	for i, line := range lines {
		m := mark.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name := m[1] + ": " + m[2]
		if p.tables[name] != nil {
			t.Fatalf("SPEC.md: the mark %q stands twice", name)
		}
		// Two lines of heading, then the rows.
		for j := i + 3; j < len(lines) && strings.HasPrefix(lines[j], "|"); j++ {
			p.tables[name] = append(p.tables[name], cells(lines[j]))
		}
		if len(p.tables[name]) == 0 || !strings.HasPrefix(lines[i+2], "|---") {
			t.Fatalf("SPEC.md: no table behind the mark %q", name)
		}
	}
	return p
}

func cells(row string) []string {
	all := strings.Split(strings.Trim(row, "|"), "|")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}

// table returns the rows of a table with so many columns.
func (p page) table(t *testing.T, name string, columns int) [][]string {
	t.Helper()
	rows := p.tables[name]
	if len(rows) == 0 {
		t.Fatalf("SPEC.md has no %s", name)
	}
	for _, r := range rows {
		if len(r) != columns {
			t.Fatalf("SPEC.md, %s: %q has %d columns, want %d", name, r, len(r), columns)
		}
	}
	return rows
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.ParseInt(strings.ReplaceAll(s, ",", ""), 0, 64)
	if err != nil {
		t.Fatalf("SPEC.md: %q is no number", s)
	}
	return int(n)
}

func TestStatuses(t *testing.T) {
	rows := readPage(t).table(t, "table: statuses", 6)
	var want [][]string
	for _, s := range frame.Statuses() {
		layer, retryable := "outer", "no"
		if s >= frame.WrongPassword {
			layer = "inner"
		}
		if s.Retryable() {
			retryable = "yes"
		}
		want = append(want, []string{strconv.Itoa(int(s)), s.String(), layer, retryable, strconv.Itoa(s.CloseCode()), s.Meaning()})
	}
	for i := range max(len(rows), len(want)) {
		var got, w []string
		if i < len(rows) {
			got = rows[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if !slices.Equal(got, w) {
			t.Errorf("SPEC.md says %q, the code %q", got, w)
		}
	}
}

// shape is a frame at its smallest and at its largest.
type shape struct{ least, most frame.Frame }

func full(n int) []byte { return make([]byte, n) }
func text(n int) string { return strings.Repeat("x", n) }

// clientFrames is every frame of the outer wire, uplinkFrames what an uplink has
// besides, by the names of SPEC.md.
var clientFrames = map[string]shape{
	"HELLO":  {frame.Hello{}, frame.Hello{}},
	"AUTH":   {frame.Auth{Host: "h", Ticket: "t"}, frame.Auth{Host: text(frame.MaxHost), Ticket: text(frame.MaxTicket)}},
	"READY":  {frame.Ready{}, frame.Ready{}},
	"OPEN":   {frame.Open{Payload: full(1)}, frame.Open{Payload: full(frame.MaxPayload)}},
	"ATTACH": {frame.Attach{}, frame.Attach{}},
	"DATA":   {frame.Data{Payload: full(1)}, frame.Data{Payload: full(frame.MaxPayload)}},
	"CLOSE":  {frame.Close{}, frame.Close{}},
	"NOTICE": {frame.Notice{}, frame.Notice{}},
	"GOAWAY": {frame.Goaway{}, frame.Goaway{}},
	"REFUSE": {frame.Refuse{}, frame.Refuse{Limit: text(frame.MaxLimit)}},
}

var uplinkFrames = map[string]shape{
	"UPLINK_HELLO":  {frame.UplinkHello{Fleet: "f"}, frame.UplinkHello{Fleet: text(64)}},
	"UPLINK_PEER":   {frame.UplinkPeer{}, frame.UplinkPeer{}},
	"UPLINK_GONE":   {frame.UplinkGone{}, frame.UplinkGone{}},
	"UPLINK_PING":   {frame.UplinkPing{}, frame.UplinkPing{}},
	"UPLINK_PONG":   {frame.UplinkPong{}, frame.UplinkPong{}},
	"UPLINK_DRAIN":  {frame.UplinkDrain{}, frame.UplinkDrain{}},
	"UPLINK_CREDIT": {frame.UplinkCredit{Frames: 1}, frame.UplinkCredit{Frames: frame.Window}},
}

func TestFrames(t *testing.T) {
	p := readPage(t)
	checkFrames(t, p.table(t, "table: frames", 5), clientFrames, "chatvault/protocol/frame", `^T[A-Z][a-z]+$`)
	checkFrames(t, p.table(t, "table: uplink frames", 5), uplinkFrames, "chatvault/protocol/frame", `^TUplink[A-Z][a-z]+$`)
}

// checkFrames compares type byte, name, size and the widths of the body's
// fields. constants is what the names of the frames' constants look like: as
// many as there are rows.
func checkFrames(t *testing.T, rows [][]string, want map[string]shape, pkg, constants string) {
	t.Helper()
	if n := len(constantNames(t, pkg, constants)); n != len(rows) || n != len(want) {
		t.Errorf("%d constants, %d rows, %d known to this test", n, len(rows), len(want))
	}
	for _, r := range rows {
		s, ok := want[r[1]]
		if !ok {
			t.Errorf("no frame %q", r[1])
			continue
		}
		least, most := s.least.Append(nil), s.most.Append(nil)
		if number(t, r[0]) != int(least[0]) {
			t.Errorf("%s: SPEC.md has type %s, the code 0x%02x", r[1], r[0], least[0])
		}
		size := strconv.Itoa(len(least))
		if len(most) != len(least) {
			size = fmt.Sprintf("%d–%s", len(least), thousands(len(most)))
		}
		if r[4] != size {
			t.Errorf("%s: SPEC.md has size %s, the code %s", r[1], r[4], size)
		}
		if w := 1 + bodyWidth(r[3]); w > len(least) || len(least)-w > 2 {
			t.Errorf("%s: the fields of the body are %d bytes, the smallest frame %d", r[1], w, len(least))
		}
	}
}

var width = regexp.MustCompile(`\bu(8|16|32|64)\b|lp\(| (\d+)\b`)

// bodyWidth adds up the fields of a body: u8 to u64, lp() as its length field,
// and plain numbers of bytes.
func bodyWidth(body string) int {
	sum := 0
	for _, m := range width.FindAllStringSubmatch(body, -1) {
		switch {
		case m[1] != "":
			bits, _ := strconv.Atoi(m[1])
			sum += bits / 8
		case m[2] != "":
			n, _ := strconv.Atoi(m[2])
			if n != 1 { // "message 1" is a name
				sum += n
			}
		default:
			sum += 2
		}
	}
	return sum
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	if len(s) > 3 {
		s = s[:len(s)-3] + "," + s[len(s)-3:]
	}
	return s
}

func TestKinds(t *testing.T) {
	rows := readPage(t).table(t, "table: kinds", 4)
	if n := len(constantNames(t, "chatvault/protocol/vaultmsg", `^K[A-Z]\w+$`)); n != len(rows) || n != len(exchanges) {
		t.Fatalf("%d constants, %d rows, %d known to this test", n, len(rows), len(exchanges))
	}
	for i, r := range rows {
		e := exchanges[i]
		body := "(none)"
		if e.body != nil {
			body = typeName(e.body)
		}
		want := []string{strconv.Itoa(int(e.request.Kind())), typeName(e.request), body}
		if !slices.Equal(r[:3], want) {
			t.Errorf("SPEC.md says %q, the code %q", r[:3], want)
		}
	}
}

func TestEvents(t *testing.T) {
	rows := readPage(t).table(t, "table: events", 2)
	names := constantNames(t, "chatvault/protocol/vaultmsg", `^Event[A-Z]\w+$`)
	names = slices.DeleteFunc(names, func(n string) bool { return n == "EventKind" })
	if len(names) != len(rows) {
		t.Errorf("%d constants %v, %d rows", len(names), names, len(rows))
	}
	for _, r := range rows {
		v := constantOf(t, "chatvault/protocol/vaultmsg", "Event"+r[1])
		if v.ExactString() != r[0] {
			t.Errorf("%s: SPEC.md says %s, the code %s", r[1], r[0], v)
		}
	}
	if vaultmsg.EventWrongFinish != vaultmsg.EventKind(len(rows)) {
		t.Error("the last event is not the last row")
	}
}

// namedNumbers are the tables whose rows name a constant.
var namedNumbers = []string{
	"backup limits", "fleet limits", "frame sizes", "ksf bounds", "message sizes", "noise sizes", "opaque sizes",
	"record sizes", "ticket limits", "times",
}

func TestNamedNumbers(t *testing.T) {
	p := readPage(t)
	for _, name := range namedNumbers {
		for _, r := range p.table(t, "table: "+name, 3) {
			pkg, id, ok := splitConstant(r[2])
			if !ok {
				t.Errorf("%s: %q names no constant", name, r[2])
				continue
			}
			if got, v := r[1], constantOf(t, pkg, id); !sameNumber(t, got, v) {
				t.Errorf("%s, %s: SPEC.md says %s, the code %s", name, r[0], got, v)
			}
		}
	}
	for _, r := range p.table(t, "table: relay limits", 3) {
		pkg, id, _ := splitConstant(r[2])
		if v := constantOf(t, pkg, id); constant.StringVal(v) != r[0] {
			t.Errorf("relay limits: SPEC.md says %s, the code %s", r[0], v)
		}
	}
}

// splitConstant takes "protocol/frame.MaxHost" apart.
func splitConstant(s string) (pkg, id string, ok bool) {
	i := strings.LastIndex(s, ".")
	if i < 0 {
		return "", "", false
	}
	return "chatvault/" + s[:i], s[i+1:], true
}

var units = map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour}

// sameNumber compares "4,096" or "60 s" with a constant, which for a time is in
// nanoseconds.
func sameNumber(t *testing.T, text string, v constant.Value) bool {
	t.Helper()
	digits, unit, timed := strings.Cut(text, " ")
	n := int64(number(t, digits))
	if timed {
		u, ok := units[unit]
		if !ok {
			t.Fatalf("SPEC.md: %q has an unknown unit", text)
		}
		n *= int64(u)
	}
	got, exact := constant.Int64Val(constant.ToInt(v))
	return exact && got == n
}

// TestRecord adds up the appendix on the sealed record.
func TestRecord(t *testing.T) {
	rows := readPage(t).table(t, "table: record", 3)
	at := 0
	for _, r := range rows {
		if number(t, r[0]) != at {
			t.Errorf("%s: stands at %s, the fields before it end at %d", r[2], r[0], at)
		}
		at += number(t, r[1])
	}
	if v := constantOf(t, "chatvault/vaultd/internal/record", "Size"); v.ExactString() != strconv.Itoa(at) {
		t.Errorf("the fields are %d bytes, a record %s", at, v)
	}
}

// TestLabels wants every label of the code in the table, and none besides.
func TestLabels(t *testing.T) {
	listed := map[string]bool{}
	for _, r := range readPage(t).table(t, "table: labels", 2) {
		listed[r[0]] = true
	}
	used := map[string]bool{}
	label := regexp.MustCompile(`"(chatvault/1(?: [^"\\]+)?)"`)
	for _, dir := range []string{".", "../vaultd", "../chatd", "../client"} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			src, err := os.ReadFile(path)
			for _, line := range strings.Split(string(src), "\n") {
				if strings.HasPrefix(strings.TrimSpace(line), "//") {
					continue
				}
				for _, m := range label.FindAllStringSubmatch(line, -1) {
					used[m[1]] = true
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for l := range used {
		if !listed[l] {
			t.Errorf("label %q is used in the code and not in SPEC.md", l)
		}
	}
	for l := range listed {
		if !used[l] {
			t.Errorf("label %q stands in SPEC.md and not in the code", l)
		}
	}
}

// TestVectorsAreListed wants every file of vectors in section 18.
func TestVectorsAreListed(t *testing.T) {
	var listed, found []string
	for _, r := range readPage(t).table(t, "table: vectors", 2) {
		listed = append(listed, r[0])
	}
	entries, err := vectors.Files().ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		found = append(found, e.Name())
	}
	slices.Sort(listed)
	if !slices.Equal(listed, found) {
		t.Errorf("SPEC.md lists %q, there are %q", listed, found)
	}
}

// TestSectionsExist follows every reference of the form (7.4) or "section 7.4".
func TestSectionsExist(t *testing.T) {
	p := readPage(t)
	have := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^##+ (?:Appendix )?([A-B]|\d+|[A-B]?\d*\.\d+)\.? `).FindAllStringSubmatch(p.text, -1) {
		have[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`(?:[(]|[Ss]ections? |of |in )([A-B]\.\d|\d{1,2}\.\d{1,2})\b`).FindAllStringSubmatch(p.text, -1) {
		if !have[m[1]] && m[1] != "1.25" {
			t.Errorf("SPEC.md refers to section %s, which is not there", m[1])
		}
	}
	if len(have) < 60 {
		t.Errorf("only %d sections were found", len(have))
	}
}
