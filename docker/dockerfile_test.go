package docker

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chatvault/protocol/cmdline"
)

// stage is one FROM of a Dockerfile and what follows it.
type stage struct {
	base, name string
	env        map[string]string
	args       []string
	copies     []copied
	runs       []string
	user       string
	entrypoint []string
	command    []string
}

type copied struct{ from, source, target string }

// parseDockerfile knows the instructions that ours use, and no others.
func parseDockerfile(t *testing.T, file string) []stage {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var stages []stage
	for line := range strings.Lines(strings.ReplaceAll(string(b), "\\\n", " ")) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		if word == "FROM" {
			base, name, _ := strings.Cut(rest, " AS ")
			stages = append(stages, stage{base: base, name: name, env: map[string]string{}})
			continue
		}
		s := &stages[len(stages)-1]
		switch word {
		case "COPY":
			s.copy(t, rest)
		case "RUN":
			s.runs = append(s.runs, rest)
		case "ENV":
			name, value, _ := strings.Cut(rest, "=")
			s.env[name] = value
		case "ARG":
			s.args = append(s.args, rest)
		case "USER":
			s.user = rest
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &s.entrypoint)
		case "CMD":
			err = json.Unmarshal([]byte(rest), &s.command)
		case "WORKDIR":
		default:
			t.Errorf("%s: %s is not known here", file, word)
		}
		if err != nil {
			t.Fatalf("%s: %s: %v", file, line, err)
		}
	}
	return stages
}

func (s *stage) copy(t *testing.T, rest string) {
	t.Helper()
	words := strings.Fields(rest)
	from := ""
	if f, ok := strings.CutPrefix(words[0], "--from="); ok {
		from, words = f, words[1:]
	}
	if len(words) < 2 {
		t.Fatalf("COPY %s", rest)
	}
	for _, source := range words[:len(words)-1] {
		s.copies = append(s.copies, copied{from, source, words[len(words)-1]})
	}
}

var dockerfiles = []string{"chatd.Dockerfile", "vaultd.Dockerfile"}

func TestAllDockerfilesAreTested(t *testing.T) {
	found, err := filepath.Glob("*Dockerfile*")
	if err != nil || len(found) != 2*len(dockerfiles) { // each with its .dockerignore
		t.Errorf("%v, %v", found, err)
	}
}

// TestDockerfilesBuild makes the build context of each Dockerfile, with nothing
// in it but what COPY brings and the .dockerignore lets through, and runs its
// go build for real. The program that comes out names the commit it is of.
func TestDockerfilesBuild(t *testing.T) {
	for _, file := range dockerfiles {
		t.Run(file, func(t *testing.T) {
			stages := parseDockerfile(t, file)
			build := stages[0]
			src, out := t.TempDir(), t.TempDir()
			for _, c := range build.copies {
				copyIn(t, file, c.source, src)
			}
			built := 0
			for _, line := range build.runs {
				if !strings.Contains(line, "go build") {
					continue // go mod download needs the network
				}
				cmd := exec.Command("sh", "-ec", strings.ReplaceAll(line, "/out", out))
				cmd.Dir, cmd.Env = src, os.Environ()
				for _, arg := range build.args {
					cmd.Env = append(cmd.Env, arg+"="+commit)
				}
				if said, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", line, err, said)
				}
				built++
			}
			if built == 0 {
				t.Fatal("nothing is built")
			}
			for _, s := range stages[1:] {
				checkStage(t, s, out)
				for _, c := range s.copies {
					if c.from == "" {
						copyIn(t, file, c.source, t.TempDir())
					}
				}
			}
		})
	}
}

// commit is that of the images that are built here.
var commit = strings.Repeat("c0", 20)

// checkVersion asks a program of which commit it is.
func checkVersion(t *testing.T, program string) {
	t.Helper()
	said, err := exec.Command(program, "version", "--json").Output()
	var v cmdline.Version
	if err == nil {
		err = json.Unmarshal(said, &v)
	}
	if err != nil || v.Revision != commit {
		t.Errorf("%s is of %q: %v", program, said, err)
	}
}

// checkStage looks whether a final image has what it starts, and not as root.
func checkStage(t *testing.T, s stage, out string) {
	t.Helper()
	program := ""
	for _, c := range s.copies {
		if name, ours := strings.CutPrefix(c.source, "/out/"); ours {
			checkVersion(t, filepath.Join(out, name))
			program = c.target
		}
	}
	if len(s.entrypoint) != 1 || s.entrypoint[0] != program {
		t.Errorf("stage %q starts %v and has %q", s.name, s.entrypoint, program)
	}
	if uid, _, _ := strings.Cut(s.user, ":"); uid == "" || uid == "0" || uid == "root" {
		t.Errorf("stage %q runs as %q", s.name, s.user)
	}
	if len(s.command) == 0 || s.command[0] != "serve" {
		t.Errorf("stage %q: command %v", s.name, s.command)
	}
	if s.name != "dev" {
		for _, line := range s.runs {
			if strings.Contains(line, "softhsm") {
				t.Errorf("stage %q has SoftHSM in it", s.name)
			}
		}
	}
}

// copyIn copies a file or folder of the repository, if the Dockerfile's own
// .dockerignore lets it through.
func copyIn(t *testing.T, dockerfile, source, target string) {
	t.Helper()
	ignore, err := os.ReadFile(dockerfile + ".dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(ignore), "\n!"+source+"\n") {
		t.Errorf("%s: %s is ignored", dockerfile, source)
	}
	from, to := filepath.Join(root, source), filepath.Join(target, source)
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if info.IsDir() {
		err = os.CopyFS(to, os.DirFS(from))
	} else {
		err = copyFile(from, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}
