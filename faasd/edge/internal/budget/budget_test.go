package budget

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestRead(t *testing.T) {
	const limit = 100_000
	for _, length := range []int{0, 1, free - 1, free, free + 1, 5 * free, limit - 1, limit, limit + 1, 2 * limit} {
		for name, size := range map[string]int64{"announced": int64(length), "not announced": -1} {
			for reader, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "with EOF": iotest.DataErrReader, "in halves": iotest.HalfReader} {
				b := New(1<<20, 1<<18)
				content := bytes.Repeat([]byte("x"), length)
				got, err := b.Read(wrap(bytes.NewReader(content)), size, limit, "192.0.2.1")
				if length > limit {
					if !errors.Is(err, ErrTooLarge) || b.Used() != 0 {
						t.Errorf("%d bytes, %s, %s: got %v with %d counted, want it too large and none", length, name, reader, err, b.Used())
					}
					continue
				}
				if err != nil || !bytes.Equal(got.Content, content) {
					t.Errorf("%d bytes, %s, %s: got %v, want all of them", length, name, reader, err)
					continue
				}
				held := int64(0)
				if cap(got.Content) > free {
					held = int64(cap(got.Content))
				}
				if b.Used() != held || int64(length) > free && held < int64(length) {
					t.Errorf("%d bytes, %s, %s: got %d counted, want the %d in memory", length, name, reader, b.Used(), cap(got.Content))
				}
				got.Release()
				got.Release()
				if b.Used() != 0 {
					t.Errorf("bytes after the release: got %d, want 0", b.Used())
				}
			}
		}
	}
}

// TestAnnouncedIsNotCounted announces a megabyte and sends little.
func TestAnnouncedIsNotCounted(t *testing.T) {
	b := New(1<<20, 1<<18)
	sent := make([]byte, 20<<10)
	read, err := b.Read(io.MultiReader(bytes.NewReader(sent), observer(func() {
		if used := b.Used(); used < int64(len(sent)) || used > 2*growth*int64(len(sent)) {
			t.Errorf("counted bytes: got %d, want about the %d received", used, len(sent))
		}
	})), 256<<10, 1<<20, "192.0.2.1")
	if !errors.Is(err, io.ErrUnexpectedEOF) || read != nil || b.Used() != 0 {
		t.Errorf("a body that ends early: got %v with %d counted, want an unexpected end and none", err, b.Used())
	}
}

type observer func()

func (o observer) Read([]byte) (int, error) { o(); return 0, io.EOF }

func TestBounds(t *testing.T) {
	b := New(360_000, 90_000)
	read := func(n int, client string) (*Bytes, error) {
		return b.Read(bytes.NewReader(make([]byte, n)), -1, int64(n), client)
	}
	must := func(n int, client string) *Bytes {
		t.Helper()
		got, err := read(n, client)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := must(60_000, "2001:db8::1")
	if _, err := read(60_000, "2001:db8::2"); !errors.Is(err, ErrFull) {
		t.Errorf("one network, beyond its share: got %v, want it full", err)
	}
	for _, client := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"} {
		must(60_000, client)
	}
	if _, err := read(60_000, "192.0.2.5"); !errors.Is(err, ErrFull) {
		t.Errorf("beyond the budget: got %v, want it full", err)
	}
	must(free-1, "192.0.2.5") // what is small always fits
	used := b.Used()
	first.Release()
	if b.Used() >= used {
		t.Errorf("counted bytes after a release: got %d, want less than %d", b.Used(), used)
	}
	must(60_000, "192.0.2.5")
}
