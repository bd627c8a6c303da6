package vectors

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// loaders is every file with the number of its cases.
var loaders = map[string]struct {
	count int
	load  func() []string
}{
	"argon2id.json":         {2, names(Argon2id, func(c Argon2idCase) Source { return c.Source })},
	"hashtocurve_p256.json": {5, names(HashToCurveP256, func(c H2C) Source { return c.Source })},
	"elements_p256.json":    {26, names(Elements, func(c ElementCase) Source { return c.Source })},
	"oprf_p256.json":        {2, names(OPRF, func(c OPRFCase) Source { return c.Source })},
	"opaque_p256.json":      {3, names(OPAQUE, func(c OPAQUECase) Source { return c.Source })},
}

func names[T any](load func() []T, source func(T) Source) func() []string {
	return func() []string {
		var all []string
		for _, c := range load() {
			s := source(c)
			if s.Section == "" || s.Name == "" {
				all = append(all, "")
				continue
			}
			all = append(all, s.String())
		}
		return all
	}
}

func TestEveryFileLoadsWhole(t *testing.T) {
	for file, l := range loaders {
		got := l.load()
		if len(got) != l.count {
			t.Errorf("%s: %d cases, want %d", file, len(got), l.count)
		}
		slices.Sort(got)
		if len(got) == 0 || got[0] == "" {
			t.Errorf("%s: a case without section or name", file)
		}
		if len(slices.Compact(got)) != l.count {
			t.Errorf("%s: two cases have the same name", file)
		}
	}
}

// A file whose loader nobody calls would be vectors that test nothing.
func TestEveryFileHasALoader(t *testing.T) {
	found, err := fs.Glob(Files(), "*.json")
	if err != nil || len(found) != len(loaders) {
		t.Fatalf("%d files %v, %d loaders, %v", len(found), found, len(loaders), err)
	}
	for _, f := range found {
		if _, ok := loaders[f]; !ok {
			t.Errorf("%s has no loader", f)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, data := range map[string]string{
		"no cases":        `[]`,
		"null":            `null`,
		"nothing":         ``,
		"unknown field":   `[{"rfc":1,"section":"1","name":"a","input":"00","inputt":"00"}]`,
		"odd hexadecimal": `[{"rfc":1,"section":"1","name":"a","input":"0"}]`,
		"not hexadecimal": `[{"rfc":1,"section":"1","name":"a","input":"0g"}]`,
		"trailing list":   `[{"rfc":1,"section":"1","name":"a","input":"00"}] []`,
	} {
		if cases, err := parse[OPRFCase]([]byte(data)); err == nil {
			t.Errorf("%s: parsed to %v", name, cases)
		}
	}
	if _, err := parse[OPRFCase]([]byte(`[{"rfc":1,"section":"1","name":"a","input":"00"}]`)); err != nil {
		t.Errorf("a good case: %v", err)
	}
}

func TestNoValueHasAPrefix(t *testing.T) {
	err := fs.WalkDir(Files(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(Files(), path)
		if strings.Contains(string(data), `"0x`) {
			t.Errorf("%s holds a prefixed value", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
