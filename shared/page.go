package kiosk

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// Bounds of a list, from the shop's contract with its clients.
const (
	DefaultLimit = 20
	MaxLimit     = 100
	// MaxDepth is how many items of a list may be paged through by number, and
	// up to which its items are counted: a database walks over all it skips or
	// counts. Cursors lead further.
	MaxDepth = 10_000
)

// Page is one slice of a list: Limit items, by the page's number or from a cursor
// on.
type Page struct {
	Number int    // from 1; 0 where After is set
	Limit  int    // from 1 to MaxLimit
	After  string // the token of a [Cursor]; empty: none
}

// Check returns what is wrong with a page that a client asked for, except for its
// cursor: see [Page.Cursor].
func (p Page) Check() error {
	var v Violations
	v.Require(p.Limit >= 1 && p.Limit <= MaxLimit, "limit", "must be from 1 to 100")
	switch {
	case p.After != "":
		v.Require(p.Number == 0, "page", "must not be sent together with after")
		v.Require(p.Number == 0, "after", "must not be sent together with page")
	case p.Number < 1:
		v.Require(false, "page", "must be 1 or more")
	case v.Err() == nil:
		v.Require(p.Number <= MaxDepth && p.Skip() < MaxDepth, "page",
			fmt.Sprintf("is too deep: pages begin at most %d items deep, follow the Link header with rel=\"next\" instead", MaxDepth))
	}
	return v.Err()
}

// Skip returns the number of items before a page that has been checked.
func (p Page) Skip() int { return max(p.Number-1, 0) * p.Limit }

// Cursor is a position in a sorted list, behind the item with this key and
// identifier. It stays valid when the item is deleted.
type Cursor struct {
	Key string // what the list is sorted by, in a form whose bytes sort as it does
	ID  ID     // distinguishes items of the same key
}

// A token is a version, a checksum, the identifier and the key. The checksum
// covers the list that the cursor belongs to, so that a token is refused for
// another list, or with a character changed. It is no secret: a cursor holds
// nothing that its list does not show.
const (
	tokenVersion  = 1
	tokenChecksum = 8
	tokenHead     = 1 + tokenChecksum + 12
	// maxToken bounds a token, in characters; a name of 200 characters makes
	// 1,100 of them at most.
	maxToken = 2048
)

var tokenEncoding = base64.RawURLEncoding.Strict()

func checksum(list string, rest []byte) []byte {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(list))))
	h.Write([]byte(list))
	h.Write(rest)
	return h.Sum(nil)[:tokenChecksum]
}

// Token returns the cursor's form for clients, who send it back as Page.After. list
// names the list with its sort and its filters.
func (c Cursor) Token(list string) string {
	id, _ := hex.DecodeString(string(c.ID))
	rest := append(id, c.Key...)
	token := append([]byte{tokenVersion}, checksum(list, rest)...)
	return tokenEncoding.EncodeToString(append(token, rest...))
}

// Cursor returns the cursor of the page's token, nil where it has none. It fails
// with KindInvalid for a token that is not one of this list's.
func (p Page) Cursor(list string) (*Cursor, error) {
	if p.After == "" {
		return nil, nil
	}
	invalid := Invalid("after", "is not a cursor of this list: take it from the Link header with rel=\"next\"")
	if len(p.After) > maxToken || strings.ContainsAny(p.After, "\r\n") { // which decoding passes over
		return nil, invalid
	}
	token, err := tokenEncoding.DecodeString(p.After)
	if err != nil || len(token) < tokenHead || token[0] != tokenVersion {
		return nil, invalid
	}
	rest := token[1+tokenChecksum:]
	if !bytes.Equal(token[1:1+tokenChecksum], checksum(list, rest)) {
		return nil, invalid
	}
	return &Cursor{Key: string(rest[12:]), ID: ID(hex.EncodeToString(rest[:12]))}, nil
}

// NumberKey returns the key of a cursor in a list that is sorted by a number.
func NumberKey(n int64) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(n)^1<<63))
}

// Number returns the number of a key that [NumberKey] made, 0 for any other.
func (c Cursor) Number() int64 {
	if len(c.Key) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64([]byte(c.Key)) ^ 1<<63)
}

// Listing is one page of a list.
type Listing[T any] struct {
	Items []T
	Total int    // of the whole list's items; above MaxDepth it says no more than that
	Next  string // the token of the next page's cursor, for Page.After; empty on the last page
}
