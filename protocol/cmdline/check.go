package cmdline

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// checker holds a YAML tree against Go types, stricter than the decoder does
// and with better words.
type checker struct{ file string }

func (c checker) errorf(at *yaml.Node, format string, args ...any) error {
	return &ConfigError{File: c.file, Line: at.Line, Reason: fmt.Sprintf(format, args...)}
}

func (c checker) unknown(key *yaml.Node, known []string) error {
	hint := ""
	if near := nearest(key.Value, known); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return c.errorf(key, "unknown setting %q%s", key.Value, hint)
}

type pair struct{ key, value *yaml.Node }

// pairs are the entries of a mapping, each key once and a plain word.
func (c checker) pairs(n *yaml.Node) ([]pair, error) {
	if n.Kind != yaml.MappingNode {
		return nil, c.errorf(n, "want settings, one a line: NAME: VALUE")
	}
	var out []pair
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		p := pair{n.Content[i], n.Content[i+1]}
		if p.key.Kind != yaml.ScalarNode {
			return nil, c.errorf(p.key, "the name of a setting must be a plain word")
		}
		if line, twice := seen[p.key.Value]; twice {
			return nil, c.errorf(p.key, "%s stands in line %d already", p.key.Value, line)
		}
		seen[p.key.Value] = p.key.Line
		out = append(out, p)
	}
	return out, nil
}

// check reports the first thing in n that is not a t. name is the way to n,
// as issuers[1].name.
func (c checker) check(name string, n *yaml.Node, t reflect.Type) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return c.errorf(n, "%s: anchors and aliases are not supported", name)
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return c.errorf(n, "%s: tags are not supported", name)
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return c.errorf(n, "%s: has no value", name)
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if decodesItself(t) {
		return c.checkScalar(name, n, t)
	}
	switch t.Kind() {
	case reflect.Struct:
		return c.checkStruct(name, n, t)
	case reflect.Map:
		pairs, err := c.pairs(n)
		if err != nil {
			return err
		}
		for _, p := range pairs {
			if err := c.checkKey(p.key, t.Key()); err != nil {
				return err
			}
			if err := c.check(within(name, p.key.Value), p.value, t.Elem()); err != nil {
				return err
			}
		}
		return nil
	case reflect.Slice, reflect.Array:
		if n.Kind != yaml.SequenceNode {
			return c.errorf(n, "%s: want a list: [a, b], or one \"- entry\" a line", name)
		}
		for i, entry := range n.Content {
			if err := c.check(fmt.Sprintf("%s[%d]", name, i), entry, t.Elem()); err != nil {
				return err
			}
		}
		return nil
	}
	return c.checkScalar(name, n, t)
}

func (c checker) checkStruct(name string, n *yaml.Node, t reflect.Type) error {
	fields := map[string]reflect.Type{}
	yamlFields(fields, t)
	pairs, err := c.pairs(n)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		field, ok := fields[p.key.Value]
		if !ok {
			return c.unknown(p.key, slices.Sorted(maps.Keys(fields)))
		}
		if err := c.check(within(name, p.key.Value), p.value, field); err != nil {
			return err
		}
	}
	return nil
}

// yamlFields names the fields of a struct as the YAML decoder does.
func yamlFields(to map[string]reflect.Type, t reflect.Type) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case !field.IsExported() && !field.Anonymous || name == "-":
		case strings.Contains(options, "inline") && field.Type.Kind() == reflect.Struct:
			yamlFields(to, field.Type)
		case name != "":
			to[name] = field.Type
		default:
			to[strings.ToLower(field.Name)] = field.Type
		}
	}
}

// checkScalar tries the decoder on one value.
func (c checker) checkScalar(name string, n *yaml.Node, t reflect.Type) error {
	if n.Kind != yaml.ScalarNode {
		return c.errorf(n, "%s: want %s", name, wanted(t))
	}
	if isWhole(t) && n.Tag == "!!float" { // the decoder would cut 1.5 to 1
		return c.errorf(n, "%s: want %s", name, wanted(t))
	}
	err := n.Decode(reflect.New(t).Interface())
	var mismatch *yaml.TypeError
	if errors.As(err, &mismatch) {
		return c.errorf(n, "%s: want %s", name, wanted(t))
	}
	if err != nil {
		return c.errorf(n, "%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return nil
}

var (
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType    = reflect.TypeFor[time.Duration]()
)

func isWhole(t reflect.Type) bool {
	return t.Kind() >= reflect.Int && t.Kind() <= reflect.Uintptr && !decodesItself(t)
}

func decodesItself(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(textUnmarshaler)
}

func wanted(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration such as 90s or 72h"
	case decodesItself(t):
		return "one value"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, not negative"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "one value"
}

func names(of ...map[string]setting) []string {
	all := map[string]bool{}
	for _, settings := range of {
		for name := range settings {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// nearest is the closest known name, if it is at most two letters, or a third
// of them, away.
func nearest(name string, known []string) string {
	best, distance := "", 0
	for _, k := range known {
		d := editDistance(name, k)
		if d <= max(2, len(k)/3) && d < len(k) && (best == "" || d < distance) {
			best, distance = k, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions and changes of bytes that
// make a out of b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
