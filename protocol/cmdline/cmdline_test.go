package cmdline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

type pourCmd struct {
	Cups int    `help:"How many." default:"1"`
	Fail string `help:"How to fail."`
}

var errSpilled = errors.New("spilled")

func (c *pourCmd) Run(ctx context.Context, io IO, extra *strings.Builder) error {
	switch c.Fail {
	case "plainly":
		return fmt.Errorf("pouring: %w", errSpilled)
	case "with seven":
		return fmt.Errorf("pouring: %w", ExitError{7, errSpilled})
	case "silently":
		return ExitError{Code: 1}
	case "late":
		return Usagef("no cup")
	}
	extra.WriteString("poured")
	fmt.Fprintln(io.Out, c.Cups, ctx.Err())
	return nil
}

type kettle struct {
	Pour    pourCmd    `cmd:"" help:"Pour tea."`
	Version VersionCmd `cmd:"" help:"Print the version."`
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		args     string
		code     int
		out, err string // what the streams contain; "" means nothing
		extra    string
	}{
		{args: "pour", code: 0, out: "1 <nil>\n", extra: "poured"},
		{args: "pour --cups 3", code: 0, out: "3 <nil>\n", extra: "poured"},
		{args: "pour --fail plainly", code: 1, err: "kettle: pouring: spilled\n"},
		{args: "pour --fail with_seven", code: 7, err: "kettle: pouring: spilled\n"},
		{args: "pour --fail silently", code: 1},
		{args: "pour --fail late", code: 2, err: "kettle: no cup\n"},
		{args: "pour --cups many", code: 2, err: "Try: kettle pour --help\n"},
		{args: "pour --cusp 3", code: 2, err: "--cups"},
		{args: "drink", code: 2, err: "kettle: unexpected argument drink"},
		{args: "", code: 2, err: "Try: kettle --help\n"},
		{args: "--help", code: 0, out: "Makes tea."},
		{args: "pour --help", code: 0, out: "How many."},
		{args: "version", code: 0, out: "kettle "},
	} {
		t.Run(c.args, func(t *testing.T) {
			var out, errOut bytes.Buffer
			var extra strings.Builder
			args := strings.Fields(c.args)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "_", " ")
			}
			app := App{Name: "kettle", Description: "Makes tea.", IO: IO{Out: &out, Err: &errOut}}
			code := app.Run(context.Background(), new(kettle), args, &extra)
			if code != c.code || extra.String() != c.extra {
				t.Errorf("exit code %d, want %d; extra %q", code, c.code, extra.String())
			}
			for _, s := range []struct{ got, want string }{{out.String(), c.out}, {errOut.String(), c.err}} {
				if !strings.Contains(s.got, s.want) || s.want == "" && s.got != "" {
					t.Errorf("printed %q, want %q", s.got, s.want)
				}
			}
		})
	}
}

func TestParseRunsNothing(t *testing.T) {
	var cli kettle
	app := App{Name: "kettle"}
	if err := app.Parse(&cli, []string{"pour", "--cups", "2", "--fail", "plainly"}); err != nil || cli.Pour.Cups != 2 {
		t.Errorf("%v, %+v", err, cli)
	}
	app.IO.Out = new(bytes.Buffer)
	if err := app.Parse(&cli, []string{"--help"}); err == nil {
		t.Error("--help passed for a command")
	}
}

func TestABrokenGrammarPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	var cli struct {
		A string `name:"x"`
		B string `name:"x"`
	}
	App{Name: "x"}.Parse(&cli, nil)
}

func TestExitErrorUnwraps(t *testing.T) {
	err := fmt.Errorf("x: %w", ExitError{3, errSpilled})
	if !errors.Is(err, errSpilled) {
		t.Error("the error inside was lost")
	}
	if (ExitError{Code: 3}).Error() != "exit code 3" {
		t.Error("no text")
	}
}

// A report says what was measured, however the go command is set.
func TestTheCommitOfTheBuild(t *testing.T) {
	defer func() { commit = "" }()
	hash := strings.Repeat("ab", 20)
	for text, modified := range map[string]bool{hash: false, hash + "-dirty": true} {
		commit = text
		if v := VersionOf("kettle"); v.Revision != hash || v.Modified != modified || !strings.Contains(v.String(), hash[:12]) {
			t.Errorf("%s: %+v", text, v)
		}
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(makefile), "go build -trimpath $(STAMP)"); n != 5 || !strings.Contains(string(makefile), "-X chatvault/protocol/cmdline.commit=") {
		t.Errorf("make build stamps %d programs, want 5", n)
	}
}

func TestVersionJSON(t *testing.T) {
	var out bytes.Buffer
	app := App{Name: "kettle", IO: IO{Out: &out}}
	if code := app.Run(context.Background(), new(kettle), []string{"version", "--json"}); code != 0 {
		t.Fatal(code)
	}
	var v Version
	if err := json.Unmarshal(out.Bytes(), &v); err != nil || v.Program != "kettle" || v.Go == "" || v.Version == "" {
		t.Errorf("%+v, %v", v, err)
	}
	full := Version{Program: "p", Version: "v1", Revision: strings.Repeat("a", 40), Modified: true, Go: "go1", Platform: "os/arch"}
	if full.String() != "p v1 aaaaaaaaaaaa (modified) go1 os/arch" {
		t.Error(full)
	}
}

// Every program links this package: what it drags in, all of them carry.
func TestStaysLight(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "github.com/alecthomas/kong\n") {
		t.Fatalf("not a list of imports: %s", out)
	}
	for _, dep := range strings.Fields(string(out)) {
		own := strings.HasPrefix(dep, "chatvault/") && dep != "chatvault/protocol/secret" && dep != "chatvault/protocol/cmdline"
		if own || dep == "net" || dep == "net/http" || dep == "crypto/tls" || dep == "crypto/x509" || dep == "crypto/ecdsa" {
			t.Errorf("links %s", dep)
		}
	}
}
