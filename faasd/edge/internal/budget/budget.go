// Package budget bounds the memory that requests and answers in progress take,
// in all and for one client, by the bytes that were received: a length that
// is only announced is not counted.
package budget

import (
	"errors"
	"io"
	"net/netip"
	"sync"

	"github.com/kiosk-shop/kiosk/shared/origin"
)

const (
	// free is what everybody may hold without being counted, so that a used-up
	// budget keeps nobody from an ordinary request. Others bound how many there
	// are: connections, calls.
	free = 4 << 10
	// growth is how many times larger the next buffer is than one of up to large
	// bytes; beyond that it is twice as large.
	growth = 4
	large  = 64 << 10
)

var (
	// ErrTooLarge means that more came than the limit allows.
	ErrTooLarge = errors.New("larger than the limit")
	// ErrFull means that the budget, or the client's share of it, is used up.
	ErrFull = errors.New("too many bytes in memory")
)

// Budget is a number of bytes that may be in memory at once.
type Budget struct {
	total, share int64

	mu       sync.Mutex
	used     int64
	byClient map[netip.Prefix]int64
}

// New returns a Budget of total bytes, of which one client may have its share.
func New(total, share int64) *Budget {
	return &Budget{total: total, share: share, byClient: make(map[netip.Prefix]int64)}
}

// Used returns how many bytes are taken now.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

func (b *Budget) take(client netip.Prefix, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.total || b.byClient[client]+n > b.share {
		return false
	}
	b.used += n
	b.byClient[client] += n
	return true
}

func (b *Budget) give(client netip.Prefix, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.byClient[client] -= n; b.byClient[client] <= 0 {
		delete(b.byClient, client)
	}
}

// Bytes are in memory, and counted until Release.
type Bytes struct {
	Content []byte

	budget *Budget
	client netip.Prefix
	held   int64
}

// Release counts the bytes as gone. Their user calls it when done with them.
func (b *Bytes) Release() {
	if b.held > 0 {
		b.budget.give(b.client, b.held)
		b.held = 0
	}
}

// Read reads r to its end and counts its bytes for the client with that address. size is
// how much is announced, -1 where nothing is. On an error nothing is held:
// ErrTooLarge above limit, ErrFull, or r's own.
func (b *Budget) Read(r io.Reader, size, limit int64, client string) (*Bytes, error) {
	bytes := &Bytes{budget: b}
	most := limit + 1 // one more, to see that there is more
	if size >= 0 {
		most = min(size, most)
	}
	for {
		if int64(len(bytes.Content)) == most {
			if size < 0 || size > limit {
				bytes.Release()
				return nil, ErrTooLarge
			}
			return bytes, nil
		}
		if len(bytes.Content) == cap(bytes.Content) {
			next := 2 * int64(cap(bytes.Content))
			if next <= 2*large {
				next = max(growth/2*next, free)
			}
			if next > most/2 {
				next = most // no further step for the little that is left
			}
			if !bytes.grow(next, client) {
				bytes.Release()
				return nil, ErrFull
			}
		}
		n, err := r.Read(bytes.Content[len(bytes.Content):cap(bytes.Content)])
		bytes.Content = bytes.Content[:len(bytes.Content)+n]
		if err == io.EOF {
			if size >= 0 && int64(len(bytes.Content)) < size {
				err = io.ErrUnexpectedEOF
			} else if int64(len(bytes.Content)) <= limit {
				return bytes, nil
			} else {
				err = ErrTooLarge
			}
		}
		if err != nil {
			bytes.Release()
			return nil, err
		}
	}
}

// grow moves the content into a buffer of that capacity. For the moment of the
// copy both are in memory and counted.
func (b *Bytes) grow(capacity int64, client string) bool {
	held := int64(0)
	if capacity > free {
		if b.held == 0 {
			if address, err := netip.ParseAddr(client); err == nil {
				b.client = origin.Network(address)
			}
		}
		if held = capacity; !b.budget.take(b.client, held) {
			return false
		}
	}
	content := make([]byte, len(b.Content), capacity)
	copy(content, b.Content)
	b.Content = content
	b.Release()
	b.held = held
	return true
}
