package command

import (
	"context"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/schollz/progressbar/v3"
)

// counter counts what passes.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// stoppableWriter fails once the context has ended.
type stoppableWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w stoppableWriter) Write(p []byte) (int, error) {
	if err := stopped(w.ctx); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// stoppableFile is the same for a file, whose reads do not wait.
type stoppableFile struct {
	ctx context.Context
	r   io.Reader
}

func (f stoppableFile) Read(p []byte) (int, error) {
	if err := stopped(f.ctx); err != nil {
		return 0, err
	}
	return f.r.Read(p)
}

// stoppableReader returns a reader that fails once the context has ended, also
// while it waits: standard input may be a pipe that says nothing for hours, and
// its read cannot be called back. r must not be used by others any more.
func stoppableReader(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{pw}, struct{ io.Reader }{r}, make([]byte, 256<<10))
		pw.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { pr.CloseWithError(stopped(ctx)) })
	return &pipeEnd{ctx, pr}
}

type pipeEnd struct {
	ctx context.Context
	r   *io.PipeReader
}

func (p *pipeEnd) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if err == io.ErrClosedPipe {
		err = stopped(p.ctx)
	}
	return n, err
}

// bar is a progress bar on standard error, or nothing when nobody looks.
type bar struct{ b *progressbar.ProgressBar }

// bar makes one for total bytes, -1 when unknown.
func (s *session) bar(what string, total int64) bar {
	if !s.shows() {
		return bar{}
	}
	return bar{progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(s.errStream()), progressbar.OptionSetDescription(what), progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(throttle), progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth(),
		progressbar.OptionSetElapsedTime(false), progressbar.OptionUseANSICodes(false))}
}

// shows says whether progress is shown.
func (s *session) shows() bool { return !s.Quiet && isTerminal(s.errStream()) }

func (s *session) errStream() io.Writer {
	if t, ok := s.io.Err.(*tee); ok {
		return t.w
	}
	return s.io.Err
}

func (b bar) set(n int64) {
	if b.b != nil {
		b.b.Set64(n)
	}
}

func (b bar) done() {
	if b.b != nil {
		b.b.Finish()
		b.b.Clear()
	}
}

// reader moves the bar on with what is read.
func (b bar) reader(r io.Reader) io.Reader {
	if b.b == nil {
		return r
	}
	return io.TeeReader(r, b.b)
}

// folderSize adds up the files, for the bar only: what cannot be looked at
// counts as nothing here, and is told by the backup itself.
func (s *session) folderSize(ctx context.Context, folder string) int64 {
	if !s.shows() {
		return -1
	}
	var total int64
	filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil
	})
	return total
}
