package pkcs11uri_test

import (
	"errors"
	"strings"
	"testing"

	"chatvault/vaultd/internal/hsm/pkcs11uri"
)

const module = "?module-path=/usr/lib/m.so"

func TestParse(t *testing.T) {
	for _, test := range []struct {
		in   string
		want pkcs11uri.URI
	}{
		{"pkcs11:token=vault?module-path=/usr/lib/m.so&pin-source=file:/run/pin",
			pkcs11uri.URI{Token: "vault", ModulePath: "/usr/lib/m.so", PINSource: "/run/pin"}},
		{"pkcs11:serial=4ad3;token=a%20b%3Bc;object=fleet-1" + module,
			pkcs11uri.URI{Serial: "4ad3", Token: "a b;c", Object: "fleet-1", ModulePath: "/usr/lib/m.so"}},
		{"pkcs11:manufacturer=SoftHSM%20project;model=SoftHSM%20v2;token=%e2%82%ac" + module + "&pin-source=file:///run/pin",
			pkcs11uri.URI{Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Token: "€",
				ModulePath: "/usr/lib/m.so", PINSource: "/run/pin"}},
		{"pkcs11:token=a&b=c" + module + "&pin-source=/plain/path?x",
			pkcs11uri.URI{Token: "a&b=c", ModulePath: "/usr/lib/m.so", PINSource: "/plain/path?x"}},
	} {
		got, err := pkcs11uri.Parse(test.in)
		if err != nil || got != test.want {
			t.Errorf("Parse(%s) = %+v, %v", test.in, got, err)
		}
		again, err := pkcs11uri.Parse(got.String())
		if err != nil || again != got {
			t.Errorf("Parse(%s) = %+v, %v, want what it was made from", got, again, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":                 "",
		"another scheme":          "http:token=a" + module,
		"upper-case scheme":       "PKCS11:token=a" + module,
		"no token":                "pkcs11:" + module,
		"only a model":            "pkcs11:model=x" + module,
		"no module":               "pkcs11:token=a",
		"empty query":             "pkcs11:token=a?",
		"relative module":         "pkcs11:token=a?module-path=m.so",
		"module by name":          "pkcs11:token=a?module-name=softhsm2",
		"relative PIN file":       "pkcs11:token=a" + module + "&pin-source=file:pin",
		"PIN from a command":      "pkcs11:token=a" + module + "&pin-source=|cat%20pin",
		"PIN from a host":         "pkcs11:token=a" + module + "&pin-source=https://pin",
		"PIN in the URI":          "pkcs11:token=a" + module + "&pin-value=CANARY",
		"PIN in the path":         "pkcs11:token=a;pin-value=CANARY" + module,
		"vendor attribute":        "pkcs11:token=a;x-CANARY=1" + module,
		"vendor query":            "pkcs11:token=a" + module + "&CANARY=1",
		"slot id":                 "pkcs11:token=a;slot-id=1" + module,
		"query attribute in path": "pkcs11:token=a;module-path=%2Fm.so" + module,
		"path attribute in query": "pkcs11:token=a" + module + "&serial=1",
		"twice":                   "pkcs11:token=a;token=a" + module,
		"empty value":             "pkcs11:token=" + module,
		"empty attribute":         "pkcs11:token=a;" + module,
		"no equals sign":          "pkcs11:token" + module,
		"bare space":              "pkcs11:token=a b" + module,
		"bare slash in path":      "pkcs11:token=a/b" + module,
		"bare hash":               "pkcs11:token=a#" + module,
		"cut percent":             "pkcs11:token=a%2" + module,
		"bad percent":             "pkcs11:token=a%zz" + module,
		"NUL":                     "pkcs11:token=a%00" + module,
		"newline":                 "pkcs11:token=a%0A" + module,
		"not UTF-8":               "pkcs11:token=%ff" + module,
		"too long":                "pkcs11:token=" + strings.Repeat("a", pkcs11uri.MaxLength) + module,
		"two question marks":      "pkcs11:token=a?" + module,
		"PIN file twice":          "pkcs11:token=a" + module + "&pin-source=/a&pin-source=/b",
		"PIN file without a path": "pkcs11:token=a" + module + "&pin-source=file:&pin-source=/b",
	} {
		u, err := pkcs11uri.Parse(in)
		if !errors.Is(err, pkcs11uri.ErrSyntax) {
			t.Errorf("%s: Parse(%.80s) = %+v, %v, want ErrSyntax", name, in, u, err)
		} else if strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: the error repeats a value: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("pkcs11:token=vault?module-path=/usr/lib/m.so&pin-source=file:/run/pin")
	f.Add("pkcs11:serial=4ad3;token=a%20b%3Bc;object=fleet-1?module-path=/m.so")
	f.Add("pkcs11:token=%e2%82%ac;model=SoftHSM%20v2?module-path=/m.so&pin-source=file:///run/pin")
	f.Add("pkcs11:token=a?module-path=/m.so&pin-source=file:////run/pin")
	f.Add("pkcs11:token=a?module-path=/m.so&pin-value=1234")
	f.Fuzz(func(t *testing.T, in string) {
		u, err := pkcs11uri.Parse(in)
		if err != nil {
			if !errors.Is(err, pkcs11uri.ErrSyntax) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		canonical := u.String()
		again, err := pkcs11uri.Parse(canonical)
		if err != nil || again != u {
			t.Fatalf("%q parses to %+v, written as %q, which parses to %+v, %v", in, u, canonical, again, err)
		}
		if again.String() != canonical {
			t.Fatalf("%q is not written the same way twice", canonical)
		}
	})
}
