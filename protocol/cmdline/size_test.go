package cmdline

import "testing"

func TestSize(t *testing.T) {
	for in, want := range map[string]Size{
		"0": 0, "4096": 4096, "1B": 1, "64KiB": 64 << 10, "10MB": 10e6, "1 GiB": 1 << 30, "2kB": 2000, "3GB": 3e9, "5MiB": 5 << 20,
		"9223372036854775807": 1<<63 - 1, "8589934591GiB": 8589934591 << 30,
	} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err != nil || s != want {
			t.Errorf("%q: %d, %v", in, s, err)
		}
	}
	for _, in := range []string{"", "KiB", "-1", "1.5MB", "1 apple", "9223372036854775808", "8589934592GiB", "1kib", "1  KiB", "+1", "0x10", "1_000"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q was taken as %d", in, s)
		}
	}
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"0", "64KiB", "10MB", "1 GiB", "-1", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var s, again Size
		if s.UnmarshalText([]byte(in)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Fatalf("%q is %d, printed %q, read as %d, %v", in, s, s, again, err)
		}
	})
}
