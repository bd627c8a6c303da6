package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"chatvault/protocol/frame"
)

const root = "../.."

// pages are those that this package checks.
var pages = []string{
	"README.md", "SECURITY.md", "protocol/SPEC.md",
	"protocol/docs/integrate.md", "protocol/docs/implement.md", "protocol/docs/errors.md",
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestShownCodeIsTested wants each block of Go in the README to be a function of
// example_test.go, letter by letter.
func TestShownCodeIsTested(t *testing.T) {
	src, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "example_test.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	functions := map[string]bool{}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			from := f.Pos()
			if f.Doc != nil {
				from = f.Doc.Pos()
			}
			functions[string(src[set.Position(from).Offset:set.Position(f.End()).Offset])] = true
		}
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)\n```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) < 3 {
		t.Errorf("README.md shows only %d blocks of Go", len(blocks))
	}
	for _, b := range blocks {
		for _, one := range strings.Split(b[1], "\n\n") {
			if !functions[one] {
				t.Errorf("README.md shows code that is not in example_test.go:\n%s", one)
			}
		}
	}
}

// TestEveryStatusIsExplained wants a heading and a text for each status in
// errors.md, and none besides.
func TestEveryStatusIsExplained(t *testing.T) {
	sections := regexp.MustCompile(`(?m)^### `).Split(read(t, "protocol/docs/errors.md"), -1)[1:]
	explained := map[string]bool{}
	for _, s := range sections {
		head, text, _ := strings.Cut(s, "\n")
		explained[head] = true
		for _, part := range []string{"**See:**", "**Why:**", "**Do:**"} {
			if head != "0 ok" && !strings.Contains(text, part) {
				t.Errorf("errors.md: %s lacks %s", head, part)
			}
		}
	}
	for _, s := range frame.Statuses() {
		if head := number(s) + " " + s.String(); !explained[head] {
			t.Errorf("errors.md has no heading %q", head)
		} else {
			delete(explained, head)
		}
	}
	for head := range explained {
		t.Errorf("errors.md explains %q, which is no status", head)
	}
}

func number(s frame.Status) string {
	digits := ""
	for n := int(s); n > 0 || digits == ""; n /= 10 {
		digits = string(rune('0'+n%10)) + digits
	}
	return digits
}

var link = regexp.MustCompile(`\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)`)

// TestLinksLead follows every link within the repository. One whose text is the
// name of a test must lead to the file that has it.
func TestLinksLead(t *testing.T) {
	tests := 0
	for _, page := range pages {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			text, target := strings.Trim(m[1], "`"), m[2]
			if strings.Contains(target, "://") {
				continue
			}
			path := filepath.Join(root, filepath.Dir(page), target)
			b, err := os.ReadFile(path)
			if err != nil {
				if info, statErr := os.Stat(path); statErr != nil || !info.IsDir() {
					t.Errorf("%s: %q leads nowhere", page, target)
				}
				continue
			}
			if regexp.MustCompile(`^(Test|Fuzz)[A-Z]\w+$`).MatchString(text) {
				tests++
				if !strings.Contains(string(b), "\nfunc "+text+"(") {
					t.Errorf("%s: %s has no %s", page, target, text)
				}
			}
		}
	}
	if tests < 30 {
		t.Errorf("only %d tests are linked", tests)
	}
}

// TestEveryAttackHasARow wants A1 to A22 in SECURITY.md, each with a test or the
// word planned.
func TestEveryAttackHasARow(t *testing.T) {
	rows := regexp.MustCompile(`(?m)^\| A(\d+) \|.*$`).FindAllStringSubmatch(read(t, "SECURITY.md"), -1)
	if len(rows) != 22 {
		t.Errorf("%d rows, want 22", len(rows))
	}
	for i, r := range rows {
		if r[1] != number(frame.Status(i+1)) {
			t.Errorf("row %d is A%s", i+1, r[1])
		}
		if !strings.Contains(r[0], "](") && !strings.Contains(r[0], "planned") {
			t.Errorf("A%s: neither a test nor planned", r[1])
		}
	}
}
