package result

import (
	"fmt"
	"io"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// What a Histogram tells apart: 1 µs to 1 hour, three digits.
const (
	lowest  = 1
	highest = int64(time.Hour / time.Microsecond)
	digits  = 3
)

// Histogram holds latencies in µs. Not safe for concurrent use.
type Histogram struct{ h *hdrhistogram.Histogram }

// NewHistogram makes an empty one.
func NewHistogram() *Histogram {
	return &Histogram{hdrhistogram.New(lowest, highest, digits)}
}

// Record adds a latency; one outside of the range counts as its end.
func (h *Histogram) Record(d time.Duration) {
	us := min(max(d.Microseconds(), lowest), highest)
	if err := h.h.RecordValue(us); err != nil {
		panic("result: a value within bounds was refused: " + err.Error())
	}
}

// Reset empties it.
func (h *Histogram) Reset() { h.h.Reset() }

// Count is how many latencies it holds.
func (h *Histogram) Count() int64 { return h.h.TotalCount() }

// Quantile is the latency at a percentile, 0 to 100, in ms; 0 when empty.
func (h *Histogram) Quantile(p float64) float64 {
	if h.Count() == 0 {
		return 0
	}
	return float64(h.h.ValueAtQuantile(p)) / 1000
}

// Max is the largest, in ms.
func (h *Histogram) Max() float64 { return h.Quantile(100) }

// Mean is the mean, in ms.
func (h *Histogram) Mean() float64 {
	if h.Count() == 0 {
		return 0
	}
	return h.h.Mean() / 1000
}

// Add adds another one's latencies.
func (h *Histogram) Add(o *Histogram) {
	if dropped := h.h.Merge(o.h); dropped != 0 {
		panic("result: histograms of one range do not fit")
	}
}

// WriteHGRM writes the percentile table that HdrHistogram's plotters read, in
// ms.
func (h *Histogram) WriteHGRM(w io.Writer) error {
	_, err := h.h.PercentilesPrint(w, 5, 1000)
	return err
}

// Summary is the Latency of what it holds.
func (h *Histogram) Summary() Latency {
	return Latency{
		Count: h.Count(), Mean: h.Mean(), P50: h.Quantile(50), P90: h.Quantile(90), P99: h.Quantile(99),
		P999: h.Quantile(99.9), P9999: h.Quantile(99.99), Max: h.Max(), Histogram: h,
	}
}

// MarshalText is the V2 encoding of HdrHistogram, compressed, in base64.
func (h *Histogram) MarshalText() ([]byte, error) {
	return h.h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
}

// UnmarshalText reads what MarshalText wrote.
func (h *Histogram) UnmarshalText(text []byte) error {
	got, err := hdrhistogram.Decode(text)
	if err != nil {
		return fmt.Errorf("histogram: %w", err)
	}
	if got.HighestTrackableValue() > highest || got.SignificantFigures() != digits {
		return fmt.Errorf("histogram: up to %d µs with %d digits, want %d with %d",
			got.HighestTrackableValue(), got.SignificantFigures(), highest, digits)
	}
	h.h = hdrhistogram.New(lowest, highest, digits)
	if dropped := h.h.Merge(got); dropped != 0 {
		return fmt.Errorf("histogram: %d values out of range", dropped)
	}
	return nil
}
