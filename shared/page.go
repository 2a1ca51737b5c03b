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
	// counts. Places lead further.
	MaxDepth = 10_000
)

// Page is one slice of a list: Limit items, by the page's number or from a
// place in the list on.
type Page struct {
	Number int    // from 1; 0 where After is set
	Limit  int    // from 1 to MaxLimit
	After  string // the token of a Place; empty: none
}

// Check says what is wrong with a page that a client asked for; what is wrong
// with its place, Place says.
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
			fmt.Sprintf("begins more than %d items deep: follow the answers' Link with rel=\"next\" instead", MaxDepth))
	}
	return v.Err()
}

// Skip is the number of items before a page that has been checked.
func (p Page) Skip() int { return max(p.Number-1, 0) * p.Limit }

// Place is a place in a sorted list, behind the item with this key and
// identifier. It stays one when the item is gone.
type Place struct {
	Key string // what the list is sorted by, in a form whose bytes sort as it does
	ID  ID     // tells items of the same key apart
}

// A token is a version, a checksum, the identifier and the key. The checksum
// covers the list that the place belongs to, so that a token leads nowhere in
// another list, or with a character changed. It is no secret: a place says
// nothing that its list does not show, and leads to nothing else.
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

// Token writes the place for clients, who send it back as Page.After. list
// names the list with its sort and all that narrows it down.
func (p Place) Token(list string) string {
	id, _ := hex.DecodeString(string(p.ID))
	rest := append(id, p.Key...)
	token := append([]byte{tokenVersion}, checksum(list, rest)...)
	return tokenEncoding.EncodeToString(append(token, rest...))
}

// Place reads the page's token: nil where it has none. A token that is not one
// of this list's: KindInvalid.
func (p Page) Place(list string) (*Place, error) {
	if p.After == "" {
		return nil, nil
	}
	invalid := Invalid("after", "is no place in this list: take it from the answers' Link with rel=\"next\"")
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
	return &Place{Key: string(rest[12:]), ID: ID(hex.EncodeToString(rest[:12]))}, nil
}

// NumberKey is the key of a place in a list that is sorted by a number.
func NumberKey(n int64) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(n)^1<<63))
}

// Number is what NumberKey was made of, 0 for a key that was made otherwise.
func (p Place) Number() int64 {
	if len(p.Key) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64([]byte(p.Key)) ^ 1<<63)
}

// Listing is one page of a list.
type Listing[T any] struct {
	Items []T
	Total int    // of the whole list's items; above MaxDepth it says no more than that
	Next  string // the place that the next page begins at, for Page.After; empty on the last page
}
