package cmdline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// ConfigFile is the type of a --config flag. Embed [ConfigFlag], or have a
// field of this type, in a command or at the root of the grammar: then each
// flag may also stand in the file, under the flag's own name:
//
//	listen: ":8443"
//	session-idle: 60s
//	vault: [10.0.0.7:9000, 10.0.0.8:9000]
//	issuers:                       # no flag: has structure
//	  - name: example
//	    jwks-file: /etc/chatd/jwks.json
//
// What has structure is a field with the tags `kong:"-" yaml:"NAME"`. The
// value of a flag wins over the file's as a whole: lists are not joined.
//
// One file may serve several commands: a setting that another command knows
// is passed over. Everything else that is unknown, empty, given twice, or of
// the wrong type is refused with its line. Anchors and aliases are refused.
type ConfigFile string

// ConfigFlag is --config, for embedding.
type ConfigFlag struct {
	Config ConfigFile `name:"config" placeholder:"FILE" help:"YAML file with any of these flags under their names; flags win."`
}

// ConfigError is what is wrong in a configuration file.
type ConfigError struct {
	File   string
	Line   int // from 1; 0 for the file as a whole
	Reason string
}

func (e *ConfigError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Reason
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason)
}

// maxConfig is the size of the largest configuration file, in bytes.
const maxConfig = 1 << 20

// setting is one key of the file and where its value goes.
type setting struct {
	target reflect.Value
	flag   *kong.Flag // nil for what has structure
}

// applyConfig runs in kong's BeforeApply: after the reset to defaults, before
// the values of the flags are set. So flags win over the file, the file over
// defaults, and Validate methods see the outcome. kong calls it for every
// element of the path; the first, the application, is enough.
func applyConfig(ctx *kong.Context, at *kong.Path) error {
	if at.App == nil {
		return nil
	}
	settings, file := map[string]setting{}, ConfigFile("")
	for _, step := range ctx.Path {
		node := step.Node()
		if node == nil {
			continue
		}
		addSettings(settings, node)
		for _, flag := range node.Flags {
			if path, ok := ctx.FlagValue(flag).(ConfigFile); ok && path != "" {
				file = path
			}
		}
	}
	if file == "" {
		return nil
	}
	elsewhere := map[string]setting{}
	err := kong.Visit(ctx.Model.Node, func(v kong.Visitable, next kong.Next) error {
		if node, ok := v.(*kong.Node); ok {
			addSettings(elsewhere, node)
		}
		return next(nil)
	})
	if err != nil {
		return err
	}
	return loadConfig(string(file), settings, elsewhere)
}

func addSettings(to map[string]setting, node *kong.Node) {
	for _, flag := range node.Flags {
		_, isConfig := flag.Target.Interface().(ConfigFile)
		if !isConfig && flag.Name != "help" {
			to[flag.Name] = setting{target: flag.Target, flag: flag}
		}
	}
	addStructured(to, reflect.Indirect(node.Target))
}

// addStructured finds the fields that only a file can set.
func addStructured(to map[string]setting, v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		_, embed := field.Tag.Lookup("embed")
		switch {
		case field.Tag.Get("kong") == "-":
			if field.IsExported() && name != "" && name != "-" {
				to[name] = setting{target: v.Field(i)}
			}
		case field.Anonymous || embed:
			addStructured(to, reflect.Indirect(v.Field(i)))
		}
	}
}

func loadConfig(path string, settings, elsewhere map[string]setting) error {
	root, err := readConfig(path)
	if err != nil || root == nil {
		return err
	}
	c := checker{file: path}
	pairs, err := c.pairs(root)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		s, known := settings[p.key.Value]
		if !known {
			if _, other := elsewhere[p.key.Value]; other {
				continue
			}
			return c.unknown(p.key, names(settings, elsewhere))
		}
		if err := c.check(p.key.Value, p.value, s.target.Type()); err != nil {
			return err
		}
		switch s.target.Kind() {
		case reflect.Slice, reflect.Map, reflect.Pointer:
			s.target.SetZero() // the file replaces a default, it does not join it
		}
		if err := p.value.Decode(s.target.Addr().Interface()); err != nil {
			return c.errorf(p.value, "%s: %v", p.key.Value, err)
		}
		if s.flag != nil {
			s.flag.Set = true // satisfies `required:""`
		}
	}
	return nil
}

// readConfig returns the mapping of the file's one document, nil for a file
// without any.
func readConfig(path string) (*yaml.Node, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseConfig(path, b)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &ConfigError{File: path, Reason: reasonOf(err)}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, &ConfigError{File: path, Reason: reasonOf(err)}
	}
	if len(b) > maxConfig {
		return nil, &ConfigError{File: path, Reason: "larger than 1 MiB"}
	}
	return b, nil
}

func parseConfig(path string, b []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, &ConfigError{File: path, Reason: strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, &ConfigError{File: path, Reason: "more than one YAML document"}
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	return root, nil
}

// reasonOf leaves out the path, which ConfigError names already.
func reasonOf(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}
