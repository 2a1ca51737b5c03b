package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/mail"
)

// Bounds of what is kept: beyond either the oldest messages go.
const (
	maxKept      = 50_000
	maxKeptBytes = 256 << 20
)

// Message is a message as the API shows it and as it lies on disk.
type Message struct {
	ID         string    `json:"id"` // sorts by time of receipt
	From       string    `json:"from"`
	To         []string  `json:"to"` // the envelope's recipients
	Subject    string    `json:"subject"`
	HTML       string    `json:"html"`
	Text       string    `json:"text"`
	Date       time.Time `json:"date"`
	MessageID  string    `json:"message_id"`
	ReceivedAt time.Time `json:"received_at"`
	// Deliveries counts how often the message arrived: more than once where
	// the sender had no answer and tried again.
	Deliveries int `json:"deliveries"`
}

func (m *Message) size() int { return len(m.HTML) + len(m.Text) + len(m.Subject) + 512 }

// delivered is what makes a second delivery one: mailbox servers suppress a
// message whose Message-ID a recipient already has (Cyrus'
// duplicatesuppression, Exchange's duplicate detection).
type delivered struct{ messageID, recipient string }

// mailbox keeps messages in memory and, a file each, on disk.
type mailbox struct {
	dir      string
	maxKept  int
	maxBytes int

	mu       sync.RWMutex
	messages []*Message // oldest first
	seen     map[delivered]*Message
	bytes    int
	lastID   int64
}

func openMailbox(dir string, maxKept, maxBytes int) (*mailbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	b := &mailbox{dir: dir, maxKept: maxKept, maxBytes: maxBytes, seen: map[delivered]*Message{}}
	entries, err := os.ReadDir(dir) // in the order of names, which is that of receipt
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if strings.HasPrefix(entry.Name(), ".new-") {
			_ = os.Remove(path) // was never acknowledged
			continue
		}
		if filepath.Ext(path) != ".json" {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		m := &Message{}
		if err := json.Unmarshal(content, m); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		b.add(m)
		// A clock that went back must not sort new messages before old ones.
		if id, err := strconv.ParseInt(m.ID, 16, 64); err == nil {
			b.lastID = max(b.lastID, id)
		}
	}
	return b, nil
}

func (b *mailbox) add(m *Message) {
	b.messages = append(b.messages, m)
	b.bytes += m.size()
	if m.MessageID != "" {
		for _, to := range m.To {
			b.seen[delivered{m.MessageID, to}] = m
		}
	}
	for len(b.messages) > b.maxKept || b.bytes > b.maxBytes && len(b.messages) > 1 {
		oldest := b.messages[0]
		b.messages = b.messages[1:]
		b.forget(oldest)
	}
}

func (b *mailbox) forget(m *Message) {
	b.bytes -= m.size()
	for _, to := range m.To {
		delete(b.seen, delivered{m.MessageID, to})
	}
	if err := os.Remove(b.path(m)); err != nil {
		slog.Warn("an old message stays on disk", "error", err)
	}
}

func (b *mailbox) path(m *Message) string { return filepath.Join(b.dir, m.ID+".json") }

// deliver keeps the message for those recipients who do not have it yet. When
// it returns nil the message is on disk.
func (b *mailbox) deliver(from string, to []string, raw []byte) error {
	m := parse(raw)
	if m.From == "" {
		m.From = from
	}
	m.ReceivedAt = time.Now().UTC()
	if m.Date.IsZero() {
		m.Date = m.ReceivedAt
	}
	m.Deliveries = 1
	b.mu.Lock()
	defer b.mu.Unlock()
	var again []*Message
	for _, recipient := range to {
		if earlier, ok := b.seen[delivered{m.MessageID, recipient}]; !ok || m.MessageID == "" {
			m.To = append(m.To, recipient)
		} else if !slices.Contains(again, earlier) {
			again = append(again, earlier)
		}
	}
	for _, earlier := range again {
		counted := *earlier
		counted.Deliveries++
		if err := b.write(&counted); err != nil {
			return err
		}
		earlier.Deliveries = counted.Deliveries
	}
	if len(m.To) == 0 {
		return nil
	}
	b.lastID = max(b.lastID+1, m.ReceivedAt.UnixNano())
	m.ID = fmt.Sprintf("%016x", b.lastID)
	if err := b.write(m); err != nil {
		return err
	}
	b.add(m)
	return nil
}

// write makes the message's file say what the message says, durably.
func (b *mailbox) write(m *Message) error {
	content, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(b.dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), b.path(m))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// list is the newest messages first, at most limit, only those to the
// recipient where one is named.
func (b *mailbox) list(limit int, to string) []Message {
	b.mu.RLock()
	defer b.mu.RUnlock()
	list := []Message{}
	for _, m := range slices.Backward(b.messages) {
		if len(list) == limit {
			break
		}
		if to == "" || slices.ContainsFunc(m.To, func(r string) bool { return strings.EqualFold(r, to) }) {
			list = append(list, *m)
		}
	}
	return list
}

// clear forgets every message.
func (b *mailbox) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.messages {
		b.forget(m)
	}
	b.messages = nil
}

// parse reads what a person would see. What is no proper message is shown as
// text: a sink hides nothing.
func parse(raw []byte) *Message {
	m := &Message{}
	r, err := mail.CreateReader(bytes.NewReader(raw))
	if err != nil && !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) || r == nil {
		m.Text = string(raw)
		return m
	}
	m.Subject, _ = r.Header.Subject()
	if m.MessageID, _ = r.Header.MessageID(); m.MessageID == "" {
		m.MessageID = strings.Trim(r.Header.Get("Message-Id"), "<> ") // malformed, but still the same twice
	}
	if date, err := r.Header.Date(); err == nil {
		m.Date = date.UTC()
	}
	if from, err := r.Header.AddressList("From"); err == nil && len(from) > 0 {
		m.From = from[0].Address
	}
	for {
		part, err := r.NextPart()
		if err != nil && !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) || part == nil {
			return m
		}
		header, ok := part.Header.(*mail.InlineHeader)
		if !ok {
			continue // an attachment
		}
		body, _ := io.ReadAll(part.Body)
		switch kind, _, _ := header.ContentType(); kind {
		case "text/html":
			m.HTML += string(body)
		case "text/plain", "":
			m.Text += string(body)
		}
	}
}
