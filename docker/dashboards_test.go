package docker

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"chatvault/docker/stack"
)

// samples are what both daemons show from their start on: the labels of each
// metric with the values that they have then.
type samples map[string]map[string]map[string]bool

var sampleLine = regexp.MustCompile(`^([a-z][a-z0-9_]*)(?:\{(.*)\})? `)
var matcher = regexp.MustCompile(`([a-z]+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)

func (s samples) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m := sampleLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue // HELP, TYPE
		}
		if s[m[1]] == nil {
			s[m[1]] = map[string]map[string]bool{}
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if s[m[1]][l[1]] == nil {
				s[m[1]][l[1]] = map[string]bool{}
			}
			s[m[1]][l[1]][l[3]] = true
		}
	}
	return lines.Err()
}

// scrape starts both daemons and reads their metrics before anybody has come.
func scrape(t *testing.T) samples {
	t.Helper()
	admin := []string{"--admin", "127.0.0.1:0"}
	st, err := stack.Start(t.Context(), stack.Options{Dir: t.TempDir(), BinDir: binDir, VaultArgs: admin, ChatdArgs: admin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	all := samples{}
	for _, d := range []*stack.Daemon{st.Vault, st.Chatd} {
		address, err := d.Admin()
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := all.read(resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

var metricName = regexp.MustCompile(`\b(?:chatd|vaultd|process|go)_[a-z0-9_]+\b`)
var selector = regexp.MustCompile(`\b((?:chatd|vaultd|process|go)_[a-z0-9_]+)(?:\{([^}]*)\})?`)
var grouping = regexp.MustCompile(`\b(?:by|without) \(([^)]*)\)`)

// Labels that Prometheus adds, or that only appear in operation.
var added = map[string]bool{"instance": true, "job": true, "le": true}

// wrong says what an expression names that the daemons do not show.
func (s samples) wrong(expr string) (all []string) {
	labels := map[string]bool{}
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		shown, ok := s[m[1]]
		if !ok {
			all = append(all, "no metric "+m[1])
			continue
		}
		for label := range shown {
			labels[label] = true
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			switch values, ok := shown[l[1]]; {
			case added[l[1]]:
			case !ok:
				all = append(all, m[1]+" has no label "+l[1])
			case l[1] == "code" && l[3] != "": // not all of them are shown before they come
			case l[2] == "=":
				if !values[l[3]] {
					all = append(all, m[1]+" never has "+l[0])
				}
			case l[2] == "=~":
				for _, v := range strings.Split(l[3], "|") {
					if !values[v] {
						all = append(all, m[1]+" never has "+l[1]+"="+v)
					}
				}
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, label := range strings.Split(m[1], ",") {
			if label = strings.TrimSpace(label); !labels[label] && !added[label] {
				all = append(all, "nothing has the label "+label)
			}
		}
	}
	return all
}

var named = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}`)
var aggregation = regexp.MustCompile(`\b(?:sum|min|max|avg|count)\b`)

// lacks says which labels a text names, as {{label}} in a legend or
// {{ $labels.label }} in an alert, that what the expression yields has not.
func (s samples) lacks(expr, text string) (all []string) {
	has := map[string]bool{}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, label := range strings.Split(m[1], ",") {
			has[strings.TrimSpace(label)] = true
		}
	}
	if !aggregation.MatchString(expr) {
		has["instance"], has["job"] = true, true
		for _, m := range selector.FindAllStringSubmatch(expr, -1) {
			for label := range s[m[1]] {
				has[label] = true
			}
		}
	}
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		if !has[m[1]] {
			all = append(all, m[1])
		}
	}
	return all
}

type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct {
		H, W, X, Y int
	} `json:"gridPos"`
	Targets []struct {
		Expr   string `json:"expr"`
		Legend string `json:"legendFormat"`
	} `json:"targets"`
}

func TestDashboardsShowWhatIsThere(t *testing.T) {
	have := scrape(t)
	shown := map[string]bool{}
	files, err := filepath.Glob("dashboards/*.json")
	if err != nil || len(files) != 2 {
		t.Fatalf("dashboards: %v, %v", files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			UID    string  `json:"uid"`
			Panels []panel `json:"panels"`
		}
		if err := json.Unmarshal(b, &board); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if board.UID+".json" != filepath.Base(file) {
			t.Errorf("%s has the uid %q", file, board.UID)
		}
		ids := map[int]bool{}
		for _, p := range board.Panels {
			if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || p.Type != "row" && len(p.Targets) == 0 {
				t.Errorf("%s: panel %d %q", file, p.ID, p.Title)
			}
			ids[p.ID] = true
			for _, target := range p.Targets {
				for _, m := range metricName.FindAllString(target.Expr, -1) {
					shown[family(m)] = true
				}
				for _, w := range have.wrong(target.Expr) {
					t.Errorf("%s: %s: %s in %s", file, p.Title, w, target.Expr)
				}
				if l := have.lacks(target.Expr, target.Legend); l != nil {
					t.Errorf("%s: %s: the legend names %v, which %s has not", file, p.Title, l, target.Expr)
				}
			}
		}
	}
	for m := range have {
		if own := strings.HasPrefix(m, "chatd_") || strings.HasPrefix(m, "vaultd_"); own && !shown[family(m)] {
			t.Errorf("no dashboard shows %s", m)
		}
	}
	testAlerts(t, have)
}

// family is the name of a histogram, of which a scrape has three.
func family(metric string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		metric = strings.TrimSuffix(metric, suffix)
	}
	return metric
}

// testAlerts: each alert is about metrics that there are, and the operators' guide
// says what to do.
func testAlerts(t *testing.T, have samples) {
	var file struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	readYAML(t, "dashboards/alerts.yaml", &file, true)
	guide, err := os.ReadFile("docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if seen[r.Alert] {
				t.Errorf("%s stands twice", r.Alert)
			}
			seen[r.Alert] = true
			for _, w := range have.wrong(r.Expr) {
				t.Errorf("%s: %s", r.Alert, w)
			}
			if l := have.lacks(r.Expr, r.Annotations["summary"]); l != nil {
				t.Errorf("%s: the summary names %v, which the alert has not", r.Alert, l)
			}
			if s := r.Labels["severity"]; s != "page" && s != "ticket" || r.Annotations["summary"] == "" {
				t.Errorf("%s: severity %q, summary %q", r.Alert, s, r.Annotations["summary"])
			}
			if !strings.Contains(string(guide), "| `"+r.Alert+"` |") {
				t.Errorf("docs/operate.md does not say what to do about %s", r.Alert)
			}
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:Chatd|Vaultd)[A-Za-z]+)` \\|").FindAllStringSubmatch(string(guide), -1) {
		if !seen[m[1]] {
			t.Errorf("docs/operate.md explains %s, which no rule raises", m[1])
		}
	}
}

func TestWrongExpressionsAreFound(t *testing.T) {
	have := samples{"chatd_uplinks": {"state": {"up": true}}, "vaultd_ops_total": {"op": {"abort": true}, "code": {"ok": true}}}
	for expr, want := range map[string]string{
		`chatd_uplinks{state="up", job="chatd"} > 0`:                    "",
		`sum by (op) (rate(vaultd_ops_total{op=~"abort"}[5m]))`:         "",
		`vaultd_ops_total{code="paced"}`:                                "",
		`chatd_uplink`:                                                  "no metric chatd_uplink",
		`chatd_uplinks{status="up"}`:                                    "chatd_uplinks has no label status",
		`chatd_uplinks{state="down"}`:                                   `chatd_uplinks never has state="down"`,
		`vaultd_ops_total{op=~"abort|status"}`:                          "vaultd_ops_total never has op=status",
		`sum by (state) (vaultd_ops_total)`:                             "nothing has the label state",
		`chatd_uplinks{state="up"} / ignoring(x) vaultd_sessions_total`: "no metric vaultd_sessions_total",
	} {
		if got := strings.Join(have.wrong(expr), "; "); got != want {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
	for _, c := range []struct{ expr, text, want string }{
		{`chatd_uplinks`, "{{state}} {{instance}}", ""},
		{`chatd_uplinks > 0`, "{{ $labels.op }}: {{ $value | humanize }}", "op"},
		{`sum by (op) (rate(vaultd_ops_total[5m]))`, "{{op}} {{code}}", "code"},
		{`sum(rate(vaultd_ops_total[5m]))`, "{{op}} of {{instance}}", "op instance"},
	} {
		if got := strings.Join(have.lacks(c.expr, c.text), " "); got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.expr, c.text, got, c.want)
		}
	}
}
