package observe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxPage bounds a page of metrics, in bytes; maxMetrics the lines that are kept.
const (
	maxPage    = 8 << 20
	maxMetrics = 20_000
)

// scrapeWait bounds one scrape.
const scrapeWait = 5 * time.Second

// errNoMetrics says that a page has none.
var errNoMetrics = errors.New("no Prometheus metrics in it")

// scrape gets a page of Prometheus metrics.
func scrape(ctx context.Context, h *http.Client, url string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	resp, err := h.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	page, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err != nil {
		return nil, err
	}
	return parse(page)
}

// parse reads the text format of Prometheus, version 0.0.4, as far as it is
// needed here: names with their labels as they stand there, and values. Lines
// that are no sample are passed over.
func parse(page []byte) (map[string]float64, error) {
	out := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(page))
	lines.Buffer(nil, 64<<10)
	for lines.Scan() && len(out) < maxMetrics {
		line := lines.Text()
		end := strings.LastIndexByte(line, '}') + 1
		if end == 0 {
			end = strings.IndexByte(line, ' ')
		}
		if end <= 0 || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line[end:]) // the value, and perhaps a time
		if len(fields) == 0 {
			continue
		}
		if v, err := strconv.ParseFloat(fields[0], 64); err == nil {
			out[line[:end]] = v
		}
	}
	if len(out) == 0 {
		return nil, errNoMetrics
	}
	return out, lines.Err()
}

// family is the sum over all labels of a metric, and whether there is one.
func family(all map[string]float64, name string) (sum float64, ok bool) {
	for n, v := range all {
		if base, _, _ := strings.Cut(n, "{"); base == name {
			sum, ok = sum+v, true
		}
	}
	return sum, ok
}

// events are the counters that grew between two scrapes, by how much. Those of
// Go and of the process itself are left out: they stand in the table.
func events(before, after map[string]float64) map[string]float64 {
	out := maps.Clone(after)
	maps.DeleteFunc(out, func(name string, _ float64) bool {
		base, _, _ := strings.Cut(name, "{")
		return !strings.HasSuffix(base, "_total") || !strings.HasPrefix(base, "chatd_") && !strings.HasPrefix(base, "vaultd_")
	})
	for name := range out {
		out[name] -= before[name]
		if out[name] <= 0 {
			delete(out, name)
		}
	}
	return out
}
