package pgstore

import (
	"errors"
	"strings"
	"testing"

	"chatvault/vaultd/internal/recordstore/remote"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Spec{
		"postgres:vaultd@127.0.0.1:5432/vault":            {"vaultd", []string{"127.0.0.1:5432"}, "vault", DefaultSchema},
		"postgres:v@a.example:1,b.example:65535/d":        {"v", []string{"a.example:1", "b.example:65535"}, "d", DefaultSchema},
		"postgres:Some-User.1@[::1]:5432/D.b-1?schema=s2": {"Some-User.1", []string{"[::1]:5432"}, "D.b-1", "s2"},
	} {
		got, err := Parse(in)
		if err != nil || got.String() != want.String() || got.String() != in {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "postgres:", "postgres:@h:1/d", "postgres:u@h:1", "postgres:u@h:1/", "postgres:h:1/d", "etcd:u@h:1/d",
		"postgres:u@h/d", "postgres:u@h:0/d", "postgres:u@h:01/d", "postgres:u@h:65536/d", "postgres:u@:1/d",
		"postgres:u@h:1,h:1/d", "postgres:u@h:1,/d", "postgres:u@::1:5432/d", "postgres:u@[h]:1/d", "postgres:u@[fe80::1%eth0]:1/d",
		"postgres://u@h:1/d", "postgres:u@h:1/d?", "postgres:u@h:1/d?schema=", "postgres:u@h:1/d?schema=chatvault",
		"postgres:u@h:1/d?schema=X", "postgres:u@h:1/d?schema=a\"b", "postgres:u@h:1/d?sslmode=disable", "postgres:u@h:1/d e",
		"postgres:u'x@h:1/d", "postgres:u@h:1/d?schema=a&b=c",
		"postgres:u@" + strings.Repeat("h:1,", remote.MaxEndpoints) + "h:2/d",
	} {
		if got, err := Parse(in); !errors.Is(err, remote.ErrSpec) {
			t.Errorf("Parse(%q) = %+v, %v; want ErrSpec", in, got, err)
		}
	}
}

func TestPasswordIsNotRepeated(t *testing.T) {
	for _, in := range []string{"postgres:u:hunter2@h:1/d", "postgres://u:hunter2@h:1/d", "postgres:u:hunter2@h:1"} {
		if _, err := Parse(in); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Parse(%q): %v", in, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"postgres:vaultd@127.0.0.1:5432/vault", "postgres:v@a.example:1,b.example:65535/d?schema=s2",
		"postgres:u@[::1]:5432/d", "postgres:u:p@h:1/d", "postgres:u@h:01/d", "postgres:u@h:1/d?schema=chatvault",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Parse(in)
		if err != nil {
			return
		}
		if s.String() != in {
			t.Errorf("%q came back as %q", in, s.String())
		}
		if strings.ContainsAny(s.Schema, `"'$\`) || s.Schema == "" || len(s.Endpoints) == 0 {
			t.Errorf("%q: %+v", in, s)
		}
	})
}
