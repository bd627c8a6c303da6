package cmdline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

type issuer struct {
	Name    string        `yaml:"name"`
	Issuers []string      `yaml:"issuers"`
	Age     time.Duration `yaml:"age"`
}

type limits struct {
	Burst int `help:"Burst." default:"50"`
}

type serveCmd struct {
	ConfigFlag
	Listen  string           `default:":8443" help:"Address."`
	Idle    time.Duration    `default:"60s" help:"Idle time."`
	Verbose bool             `help:"Talk."`
	Colour  bool             `default:"true" negatable:"" help:"Colour."`
	Vault   []string         `default:"localhost:9000" help:"Vaults."`
	Max     Size             `default:"4KiB" help:"Largest."`
	Fleet   string           `required:"" help:"Fleet."`
	Format  string           `enum:"text,json" default:"text" help:"Format."`
	Ratio   *float64         `help:"Ratio."`
	Labels  map[string]int   `help:"Labels."`
	Rate    limits           `embed:"" prefix:"rate-"`
	Issuers []issuer         `kong:"-" yaml:"issuers"`
	ByName  map[string]issue `kong:"-" yaml:"by-name"`
	Private string           `kong:"-"`
}

type issue struct {
	N            uint8 `yaml:"n"`
	limitsInline `yaml:",inline"`
}

type limitsInline struct {
	Soft *int
}

func (c *serveCmd) Validate() error {
	if c.Idle < time.Second {
		return errors.New("idle must be at least 1s")
	}
	return nil
}

func (c *serveCmd) Run() error { return nil }

type initCmd struct {
	ConfigFlag
	Token string `help:"Token."`
}

func (c *initCmd) Run() error { return nil }

type daemon struct {
	Level string   `default:"info" help:"Log level."`
	Serve serveCmd `cmd:"" help:"Serve."`
	Init  initCmd  `cmd:"" help:"Init."`
}

func configFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parse runs "serve" over a file and more arguments.
func parse(t testing.TB, file string, args ...string) (daemon, error) {
	t.Helper()
	var d daemon
	err := App{Name: "d"}.Parse(&d, append([]string{"serve", "--config", configFile(t, file)}, args...))
	return d, err
}

const whole = `
# every kind of setting
listen: ":1"
idle: 72h
verbose: true
colour: false
vault: [a:1, "b:2,still-b"]
max: 64KiB
fleet: 2027
format: json
ratio: 0.5
labels: {x: 1}
rate-burst: 7
level: debug
issuers:
  - name: one
    issuers: [i1, i2]
    age: 90s
  - name: two
by-name:
  b: {n: 3, soft: 4}
token: for init only
`

func TestEverySettingFromTheFile(t *testing.T) {
	d, err := parse(t, whole)
	if err != nil {
		t.Fatal(err)
	}
	half, four := 0.5, 4
	want := serveCmd{
		ConfigFlag: d.Serve.ConfigFlag,
		Listen:     ":1", Idle: 72 * time.Hour, Verbose: true, Vault: []string{"a:1", "b:2,still-b"}, Max: 64 << 10,
		Fleet: "2027", Format: "json", Ratio: &half, Labels: map[string]int{"x": 1}, Rate: limits{7},
		Issuers: []issuer{{"one", []string{"i1", "i2"}, 90 * time.Second}, {Name: "two"}},
		ByName:  map[string]issue{"b": {3, limitsInline{&four}}},
	}
	if !reflect.DeepEqual(d.Serve, want) {
		t.Errorf("got  %+v\nwant %+v", d.Serve, want)
	}
	if d.Level != "debug" {
		t.Errorf("the root's flag is %q", d.Level)
	}
}

func TestFlagsWinOverTheFileAndTheFileOverDefaults(t *testing.T) {
	d, err := parse(t, whole, "--level=warn", "--listen=:2", "--idle", "5s", "--verbose=false", "--colour", "--vault", "c:3", "--vault=d:4",
		"--max=1MiB", "--fleet=f", "--format=text", "--ratio=2", "--labels=y=2", "--rate-burst=8")
	if err != nil {
		t.Fatal(err)
	}
	two := 2.0
	want := serveCmd{
		ConfigFlag: d.Serve.ConfigFlag,
		Listen:     ":2", Idle: 5 * time.Second, Colour: true, Vault: []string{"c:3", "d:4"}, Max: 1 << 20, Fleet: "f",
		Format: "text", Ratio: &two, Labels: map[string]int{"y": 2}, Rate: limits{8}, Issuers: d.Serve.Issuers, ByName: d.Serve.ByName,
	}
	if !reflect.DeepEqual(d.Serve, want) || d.Level != "warn" {
		t.Errorf("got  %+v %s\nwant %+v", d.Serve, d.Level, want)
	}
	d, err = parse(t, "fleet: f\nvault: [a:1]\ncolour: true", "--no-colour")
	if err != nil || d.Serve.Colour || d.Serve.Listen != ":8443" || d.Serve.Idle != time.Minute || d.Serve.Max != 4096 || d.Serve.Rate.Burst != 50 || d.Level != "info" ||
		!reflect.DeepEqual(d.Serve.Vault, []string{"a:1"}) {
		t.Errorf("%+v, %v", d, err)
	}
}

// A flag that says what the default says is still a flag.
func TestAFlagEqualToItsDefaultWins(t *testing.T) {
	d, err := parse(t, whole, "--listen=:8443", "--idle=60s", "--rate-burst=50", "--vault=localhost:9000")
	if err != nil || d.Serve.Listen != ":8443" || d.Serve.Idle != time.Minute || d.Serve.Rate.Burst != 50 || d.Serve.Vault[0] != "localhost:9000" {
		t.Errorf("%+v, %v", d.Serve, err)
	}
}

func TestStructuredSettingsKeepTheirDefaultUntilTheFileNamesThem(t *testing.T) {
	for text, want := range map[string]string{"fleet: f": "default", "fleet: f\nissuers: [{name: x}]": "x"} {
		var d daemon
		d.Serve.Issuers = []issuer{{Name: "default"}}
		err := App{Name: "d"}.Parse(&d, []string{"serve", "--config", configFile(t, text)})
		if err != nil || len(d.Serve.Issuers) != 1 || d.Serve.Issuers[0].Name != want {
			t.Errorf("%q: %+v, %v", text, d.Serve.Issuers, err)
		}
	}
}

func TestOneFileServesSeveralCommands(t *testing.T) {
	var d daemon
	if err := (App{Name: "d"}).Parse(&d, []string{"init", "--config", configFile(t, whole)}); err != nil || d.Init.Token != "for init only" {
		t.Errorf("%+v, %v", d.Init, err)
	}
	if d.Serve.Listen == ":1" {
		t.Error("the file was applied to a command that was not called")
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
		line             int
	}{
		{"a misspelt setting", "fleet: f\nlisten_: x\n", `unknown setting "listen_"; did you mean "listen"?`, 2},
		{"an underscore for a dash", "rate_burst: 1", `did you mean "rate-burst"?`, 1},
		{"nothing near", "zzzzzzzz: 1", `unknown setting "zzzzzzzz"`, 1},
		{"a Go name", "Listen: x", `did you mean "listen"?`, 1},
		{"a private field", "private: x", "unknown setting", 1},
		{"a command", "serve: {listen: x}", "unknown setting", 1},
		{"config inside", "config: x", "unknown setting", 1},
		{"help inside", "help: true", "unknown setting", 1},
		{"given twice", "listen: a\n\nlisten: b", "listen stands in line 1 already", 3},
		{"no value", "listen:", "listen: has no value", 1},
		{"null", "listen: ~", "listen: has no value", 1},
		{"not a duration", "idle: 60", "idle: want a duration such as 90s or 72h", 1},
		{"not a bool", "verbose: 7", "verbose: want true or false", 1},
		{"not a number", "rate-burst: many", "rate-burst: want a whole number", 1},
		{"a fraction", "rate-burst: 1.5", "rate-burst: want a whole number", 1},
		{"not a size", "max: 7 apples", "max: want a size such as", 1},
		{"a negative size", "max: -1", "max: want a size such as", 1},
		{"not a list", "vault: a:1", "vault: want a list", 1},
		{"a list", "listen: [a]", "listen: want one value", 1},
		{"a null entry", "vault: [a, ~]", "vault[1]: has no value", 1},
		{"a mapping", "listen: {a: b}", "listen: want one value", 1},
		{"deep and unknown", "issuers:\n  - name: a\n    nmae: b", `unknown setting "nmae"; did you mean "name"?`, 3},
		{"deep and of the wrong type", "issuers:\n  - name: a\n    age: 7", "issuers[0].age: want a duration", 3},
		{"deep and twice", "issuers:\n  - name: a\n    name: b", "name stands in line 2 already", 3},
		{"deep and out of range", "by-name:\n  x:\n    n: 256", "by-name.x.n: want a whole number", 3},
		{"an entry that is no mapping", "issuers:\n  - a", "want settings", 2},
		{"an alias", "listen: &a x\nfleet: *a", "anchors and aliases", 1},
		{"a merge", "by-name: {a: {<<: {n: 1}}}", "unknown setting", 1},
		{"a tag", "listen: !!binary aGk=", "listen: tags are not supported", 1},
		{"a key that is a list", "[a]: b", "must be a plain word", 1},
		{"a list at the top", "- a", "want settings", 1},
		{"two documents", "fleet: f\n---\nfleet: g", "more than one YAML document", 0},
		{"not YAML", "a: b: c", "mapping values", 0},
		{"too large", "#" + strings.Repeat("x", maxConfig), "larger than 1 MiB", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(t, c.text)
			var config *ConfigError
			if !errors.As(err, &config) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(config.Reason, c.want) || config.Line != c.line {
				t.Errorf("line %d: %s; want line %d: %s", config.Line, config.Reason, c.line, c.want)
			}
			if c.line > 0 && !strings.Contains(err.Error(), fmt.Sprintf("d.yaml:%d: ", c.line)) {
				t.Errorf("no place in %q", err)
			}
		})
	}
}

func TestAFileIsCheckedLikeFlags(t *testing.T) {
	for text, want := range map[string]string{
		"fleet: f\nformat: xml": "--format must be one of", "fleet: f\nidle: 1ms": "idle must be at least", "listen: x": "missing flags: --fleet",
		"": "missing flags: --fleet", "# only a comment": "missing flags: --fleet", "~": "missing flags: --fleet",
	} {
		if _, err := parse(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := (App{Name: "d"}).Parse(new(daemon), []string{"serve", "--config", filepath.Join(t.TempDir(), "none")}); err == nil ||
		!strings.HasSuffix(err.Error(), "none: no such file or directory") {
		t.Errorf("a missing file: %v", err)
	}
	if err := (App{Name: "d"}).Parse(new(daemon), []string{"serve", "--fleet=f"}); err != nil {
		t.Errorf("no file at all: %v", err)
	}
}

func TestNoEnvironmentIsRead(t *testing.T) {
	for _, name := range []string{"LISTEN", "D_LISTEN", "D_SERVE_LISTEN", "CONFIG"} {
		t.Setenv(name, "from-env")
	}
	d, err := parse(t, "fleet: f")
	if err != nil || d.Serve.Listen != ":8443" {
		t.Errorf("%q, %v", d.Serve.Listen, err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("issuers: [[[[{name: x}]]]]"))
	f.Add([]byte("listen: !!binary aGk=\nmax: 1GB\n<<: {a: b}"))
	f.Add([]byte("? [a]\n: b\n"))
	path := filepath.Join(f.TempDir(), "d.yaml")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		parse := func() (d daemon, err error) {
			err = App{Name: "d"}.Parse(&d, []string{"serve", "--fleet=flag", "--config", path})
			return d, err
		}
		d, err := parse()
		var config *ConfigError
		if err != nil && !errors.As(err, &config) && !strings.Contains(err.Error(), "must be") {
			t.Fatalf("untyped error: %v", err)
		}
		if err != nil {
			return
		}
		if d.Serve.Fleet != "flag" {
			t.Fatal("the file won over a flag")
		}
		if again, err := parse(); err != nil || fmt.Sprintf("%+v", again.Serve.Issuers) != fmt.Sprintf("%+v", d.Serve.Issuers) {
			t.Fatal("the same file reads differently")
		}
	})
}
