package cmdline

import (
	"reflect"

	"go.yaml.in/yaml/v3"
)

// ReadYAML reads a file that is no configuration of flags, but as strict as
// one, into the struct or map that into points to: what is unknown, empty,
// given twice or of the wrong type is a *[ConfigError] with its line. The
// names are those of the yaml tags. An empty file changes nothing.
func ReadYAML(path string, into any) error {
	b, err := readFile(path)
	if err != nil {
		return err
	}
	return DecodeYAML(path, b, into)
}

// DecodeYAML does what ReadYAML does with what was read; file is its name in
// errors.
func DecodeYAML(file string, b []byte, into any) error {
	root, err := parseConfig(file, b)
	if err != nil || root == nil {
		return err
	}
	c := checker{file: file}
	if err := c.check("", root, reflect.TypeOf(into).Elem()); err != nil {
		return err
	}
	if err := root.Decode(into); err != nil {
		return c.errorf(root, "%v", err)
	}
	return nil
}

// checkKey tries the decoder on a key that is more than a word.
func (c checker) checkKey(n *yaml.Node, t reflect.Type) error {
	if !decodesItself(t) {
		return nil
	}
	return c.checkScalar(n.Value, n, t)
}

// within is the way to a part of name.
func within(name, part string) string {
	if name == "" {
		return part
	}
	return name + "." + part
}
