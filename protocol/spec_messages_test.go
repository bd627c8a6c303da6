package protocol_test

import (
	"bytes"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"chatvault/protocol/vaultmsg"
)

// exchange is a request and the body of its reply, nil for none.
type exchange struct {
	request vaultmsg.Request
	body    vaultmsg.Body
}

// exchanges is every request, in the order of its kind.
var exchanges = []exchange{
	{vaultmsg.Authorise{Ticket: "t"}, vaultmsg.AccountStatus{Issuer: "i"}},
	{vaultmsg.StatusRequest{}, vaultmsg.AccountStatus{Issuer: "i"}},
	{vaultmsg.RegisterStart{}, vaultmsg.RegisterStarted{}},
	{vaultmsg.RegisterFinish{}, vaultmsg.Receipt{}},
	{vaultmsg.RecoverStart{}, vaultmsg.RecoverStarted{}},
	{vaultmsg.RecoverFinish{}, vaultmsg.Recovered{}},
	{vaultmsg.Abort{}, nil},
	{vaultmsg.Delete{}, nil},
	{vaultmsg.Claim{}, vaultmsg.Claimed{}},
	{vaultmsg.Cancel{}, nil},
}

func typeName(v any) string { return reflect.TypeOf(v).Name() }

// TestMessages finds out where each field of each message stands, by setting it
// alone to ones, and compares with SPEC.md.
func TestMessages(t *testing.T) {
	p := readPage(t)
	checked := map[string]bool{"message: Reply": true}
	for _, e := range exchanges {
		if reflect.TypeOf(e.request).NumField() > 0 {
			name := "message: " + typeName(e.request)
			rows := p.table(t, name, 3)
			if want := "kind = " + strconv.Itoa(int(e.request.Kind())); rows[0][2] != want {
				t.Errorf("%s: the first row is %q, want %q", name, rows[0][2], want)
			}
			checkFields(t, name, rows[1:], e.request, 1, func(m any) []byte { return vaultmsg.EncodeRequest(m.(vaultmsg.Request)) })
			checked[name] = true
		}
		if e.body != nil {
			name := "message: " + typeName(e.body)
			kind := e.request.Kind()
			checkFields(t, name, p.table(t, name, 3), e.body, 13, func(m any) []byte {
				return vaultmsg.Reply{Kind: kind, Body: m.(vaultmsg.Body)}.Encode()
			})
			checked[name] = true
		}
	}
	for name := range p.tables {
		if strings.HasPrefix(name, "message: ") && !checked[name] {
			t.Errorf("SPEC.md has %s, the code has no such message", name)
		}
	}
}

func TestReplyHeader(t *testing.T) {
	rows := readPage(t).table(t, "message: Reply", 3)
	// A status other than ok has no body; this one sets a bit of its first byte
	// only, so that ones in both bytes show.
	none := vaultmsg.Reply{Status: 0x0100}
	encode := func(m any) []byte { return m.(vaultmsg.Reply).Encode() }
	checkFields(t, "message: Reply", rows, none, 0, encode)
}

// checkFields walks through rows and fields together. start is where the first
// field must stand.
func checkFields(t *testing.T, name string, rows [][]string, zero any, start int, encode func(any) []byte) {
	t.Helper()
	base := encode(zero)
	at := start
	fields := leaves(reflect.TypeOf(zero), nil)
	for i, r := range rows {
		if r[1] == "var" || i >= len(fields) {
			if r[1] != "var" && r[0] != "–" {
				t.Errorf("%s: row %q is of no field", name, r)
			}
			if r[1] == "var" && number(t, r[0]) != at {
				t.Errorf("%s: %q does not stand at %d", name, r, at)
			}
			return // what follows has no fixed offset
		}
		first, last := span(base, encode, zero, fields[i])
		offset, size := number(t, r[0]), number(t, r[1])
		if offset != first || size != last-first+1 || offset != at {
			t.Errorf("%s, %s: SPEC.md says %d bytes at %d, the code %d at %d (the fields before end at %d)",
				name, r[2], size, offset, last-first+1, first, at)
		}
		at = offset + size
	}
	if len(rows) != len(fields) && !strings.HasSuffix(name, "Reply") {
		t.Errorf("%s: %d rows for %d fields", name, len(rows), len(fields))
	}
}

// span is where the encoding changes when one field is set to ones.
func span(base []byte, encode func(any) []byte, zero any, path []int) (first, last int) {
	v := reflect.New(reflect.TypeOf(zero)).Elem()
	v.Set(reflect.ValueOf(zero))
	ones(v.FieldByIndex(path))
	got := encode(v.Interface())
	first, last = -1, -1
	for i := range base {
		if got[i] != base[i] {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	if bytes.Equal(base, got) {
		return 0, -1
	}
	return first, last
}

func ones(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1<<(8*v.Type().Size()) - 1)
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(0xff)
		}
	}
}

// leaves are the fields of a struct that have a size of their own, those of
// nested structs among them.
func leaves(s reflect.Type, prefix []int) [][]int {
	var all [][]int
	for i := range s.NumField() {
		path := append(append([]int{}, prefix...), i)
		switch f := s.Field(i).Type; f.Kind() {
		case reflect.Struct:
			all = append(all, leaves(f, path)...)
		case reflect.String, reflect.Slice, reflect.Interface:
			// no fixed place
		default:
			all = append(all, path)
		}
	}
	return all
}
