package protocol_test

import (
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The constants that SPEC.md names are read from the source, because many are
// of packages that nobody may import from here, or not exported. Bodies of
// functions are not looked at, and what is missing in third-party packages does
// not matter to a constant.

var (
	checkedFiles    = token.NewFileSet()
	checkedPackages = map[string]*types.Package{}
	standard        = importer.ForCompiler(checkedFiles, "gc", nil)
)

type source struct{}

// Import implements types.Importer.
func (source) Import(path string) (*types.Package, error) {
	if p := checkedPackages[path]; p != nil {
		return p, nil
	}
	dir, ours := strings.CutPrefix(path, "chatvault/")
	if !ours {
		if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
			return standard.Import(path)
		}
		p := types.NewPackage(path, filepath.Base(path))
		p.MarkComplete()
		checkedPackages[path] = p
		return p, nil
	}
	files, err := parseDir(filepath.Join("..", filepath.FromSlash(dir)))
	if err != nil {
		return nil, err
	}
	conf := types.Config{Importer: source{}, IgnoreFuncBodies: true, FakeImportC: true, Error: func(error) {}}
	p, _ := conf.Check(path, checkedFiles, files, nil)
	checkedPackages[path] = p
	return p, nil
}

func parseDir(dir string) ([]*ast.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || otherSystem(name) {
			continue
		}
		f, err := parser.ParseFile(checkedFiles, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// otherSystem leaves out the files of other systems; none holds a constant that
// SPEC.md names.
func otherSystem(name string) bool {
	base := strings.TrimSuffix(name, ".go")
	return strings.HasSuffix(base, "_windows") || strings.HasSuffix(base, "_other") ||
		(runtime.GOOS != "linux" && strings.HasSuffix(base, "_linux"))
}

func scopeOf(t *testing.T, pkg string) *types.Scope {
	t.Helper()
	p, err := source{}.Import(pkg)
	if err != nil {
		t.Fatal(err)
	}
	return p.Scope()
}

// constantOf returns the value of a constant of the repository's own packages.
func constantOf(t *testing.T, pkg, id string) constant.Value {
	t.Helper()
	c, ok := scopeOf(t, pkg).Lookup(id).(*types.Const)
	if !ok || c.Val().Kind() == constant.Unknown {
		t.Fatalf("%s has no constant %s", pkg, id)
	}
	return c.Val()
}

// constantNames lists a package's constants of a form, in alphabetical order.
func constantNames(t *testing.T, pkg, form string) []string {
	t.Helper()
	like := regexp.MustCompile(form)
	scope := scopeOf(t, pkg)
	var names []string
	for _, n := range scope.Names() {
		if _, ok := scope.Lookup(n).(*types.Const); ok && like.MatchString(n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}
