package route

import "testing"

func FuzzMessage(f *testing.F) {
	f.Add("")
	f.Add("forged")
	f.Add(message{account: alice}.encode())
	f.Add(message{alice, phone, 1_700_000_000_000_000}.encode())
	f.Add(message{alice, phone, -1}.encode())
	f.Add(message{account: alice}.encode() + "x")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseMessage(s)
		if err != nil {
			if m != (message{}) {
				t.Errorf("an error, and %+v", m)
			}
			return
		}
		if again := m.encode(); again != s {
			t.Errorf("%q became %q", s, again)
		}
	})
}

func FuzzField(f *testing.F) {
	f.Add("00000000000000ff:02000000000000000000000000000000", "1:2")
	f.Add("ff:02", "1:2")
	f.Add(":", ":")
	f.Fuzz(func(t *testing.T, field, value string) {
		relay, _, _, ok := parseField(field, value)
		if ok && (len(relay) != 16 || len(field) != 16+1+2*len(Device{})) {
			t.Errorf("%q is no field", field)
		}
	})
}
